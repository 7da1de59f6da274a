"""Evaluation that leaves training as it was."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from torchrl_alita.layout import DONE, REWARD, next_key
from torchrl_alita.modules._acting import Acting
from torchrl_alita.training.random_state import preserve_random_state

__all__ = ["evaluate"]


def episode_returns(episodes: TensorDictBase) -> torch.Tensor:
    """Extrinsic return of each episode, mean over the agents, ``[B, T] -> [B]``.

    What comes after an episode's end does not count.
    """
    reward = episodes[next_key(REWARD)].mean((-1, -2))
    done = episodes[next_key(DONE)].squeeze(-1).long()
    running = (done.cumsum(1) - done) == 0
    return (reward * running).sum(1)


@torch.no_grad()
def evaluate(
    policy: Callable[[TensorDictBase], TensorDictBase] | None,
    env: EnvBase,
    metrics: Callable[[TensorDictBase], dict[str, torch.Tensor]] | None = None,
    *,
    horizon: int,
    seed: int,
    stop_when_done: bool = False,
) -> tuple[dict[str, float], TensorDictBase]:
    """One episode of every environment with greedy policies, extrinsic reward only.

    Args:
        policy: reads observations, writes actions. None acts uniformly at random.
        env: an environment of its own, ``[B]``.
        metrics: of episodes ``[B, T]``, as a task's. Default: none.
        horizon: steps of an episode.
        seed: of the initial states, so that evaluations are of the same ones.
        stop_when_done: end with the last episode; environments whose episode has ended wait.
            Otherwise they begin another one, to the horizon.

    Returns:
        ``return_mean``, ``return_std`` over the episodes and the metrics, as floats;
        and the episodes ``[B, T]``.

    Examples:
        >>> from torchrl_alita.envs import make_env, spread_metrics
        >>> env = make_env("vmas/spread", num_envs=4, n_agents=3)
        >>> result, episodes = evaluate(None, env, spread_metrics, horizon=5, seed=0)
        >>> sorted(result)[-2:]
        ['return_mean', 'return_std']
    """
    if isinstance(policy, TensorDictModuleBase):
        policy = Acting(policy)
    with preserve_random_state():
        env.set_seed(seed)
        torch.manual_seed(seed)
        episodes = env.rollout(
            horizon, policy, break_when_any_done=False, break_when_all_done=stop_when_done
        )
    returns = episode_returns(episodes)
    values = {
        "return_mean": returns.mean(),
        "return_std": returns.std(correction=0),
        **(metrics(episodes) if metrics else {}),
    }
    return {name: float(value) for name, value in values.items()}, episodes
