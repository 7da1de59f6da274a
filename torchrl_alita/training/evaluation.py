"""Evaluation that leaves training as it was."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase, ExplorationType

from torchrl_alita import functional
from torchrl_alita._agents import gather_agents
from torchrl_alita._modes import without_training
from torchrl_alita.algorithms import Learner
from torchrl_alita.envs import Task, environment_state, make_env
from torchrl_alita.envs._closing import close_env
from torchrl_alita.layout import DONE, OBSERVATION, REWARD, next_key
from torchrl_alita.modules._acting import Acting
from torchrl_alita.saving import preserve_random_state, seed_everything
from torchrl_alita.training.collection import sides_played, with_memory
from torchrl_alita.training.config import TrainingSettings
from torchrl_alita.training.learning import check_allowed, check_finite

__all__ = ["EVALUATION_SEED", "Evaluation", "evaluate", "side_returns"]

# Evaluations start from the same states, which no training seed is near, and what is
# chosen among several policies is chosen on others.
EVALUATION_SEED = 1_000_003
_SELECTION_SEED = 2_000_003


def episode_returns(episodes: TensorDictBase, agents: Sequence[int] | None = None) -> torch.Tensor:
    """Extrinsic return of each episode, mean over the agents, ``[B, T] -> [B]``.

    What comes after an episode's end does not count.

    Args:
        episodes: ``[B, T]``.
        agents: those that count. Default: all.
    """
    reward = gather_agents(episodes[next_key(REWARD)], agents, 2).mean((-1, -2))
    running = functional.until_first(episodes[next_key(DONE)].squeeze(-1), 1)
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
    sides: Mapping[str, Sequence[int]] | None = None,
) -> tuple[dict[str, float], TensorDictBase]:
    """One episode of every environment with greedy policies, extrinsic reward only.

    The policy acts in evaluation mode, as after ``policy.eval()``, and is put back after it. The
    random states of the process stay as they were.

    Args:
        policy: reads observations, writes actions. None acts uniformly at random.
        env: an environment of its own, ``[B]``.
        metrics: of episodes ``[B, T]``, as a task's. Default: none.
        horizon: steps of an episode, at most: one that the environment ends by itself, or by a
            limit of its own, is shorter.
        seed: of the initial states, so that evaluations are of the same ones.
        stop_when_done: end with the last episode; environments whose episode has ended wait.
            Otherwise they begin another one, to the horizon.
        sides: the agents of each side of a game, as in :func:`torchrl_alita.envs.sides_of`.

    Returns:
        ``return_mean``, ``return_std`` over the episodes and the metrics, as floats, and
        of several sides ``return_SIDE``, the mean over its agents; and the episodes
        ``[B, T]``.

    Raises:
        ValueError: for a metric that is not one number, or is named as the evaluation's own; at a
            NaN or infinity among what is observed or paid.

    Examples:
        >>> from torchrl_alita.envs import make_env, spread_metrics
        >>> env = make_env("vmas/spread", num_envs=4, n_agents=3)
        >>> result, episodes = evaluate(None, env, spread_metrics, horizon=5, seed=0)
        >>> sorted(result)[-2:]
        ['return_mean', 'return_std']
    """
    acting = Acting(policy) if isinstance(policy, TensorDictModuleBase) else policy
    # The metrics too: they may draw.
    with preserve_random_state(), without_training(policy):
        _seed(env, seed)
        episodes = env.rollout(
            horizon, acting, break_when_any_done=False, break_when_all_done=stop_when_done
        )
        check_finite(episodes.select(OBSERVATION, next_key(REWARD), strict=False), None)
        given = metrics(episodes) if metrics else {}
    returns = episode_returns(episodes)
    several = sides if sides is not None and len(sides) > 1 else {}
    own = {"return_mean": returns.mean(), "return_std": returns.std(correction=0)}
    if taken := sorted(own.keys() & given.keys()):
        raise ValueError(f"The metrics {taken} are the evaluation's own: give them other names.")
    # A task may know its sides' returns itself.
    of_sides = {
        f"return_{name}": episode_returns(episodes, agents).mean()
        for name, agents in several.items()
    }
    found = of_sides | own | given
    return {name: _number(name, value) for name, value in found.items()}, episodes


def _seed(env: EnvBase, seed: int) -> None:
    """Seed an environment, and all that one may draw from which has no generator of its own."""
    seed_everything(seed % 2**32)
    env.set_seed(seed)
    torch.manual_seed(seed)


_OF_AGENT = re.compile(r"return_(agent_)?\d+")


def side_returns(result: Mapping[str, float]) -> dict[str, float]:
    """The returns of a game's sides, by their names; none where all agents are one side.

    Args:
        result: of :func:`evaluate`.

    Examples:
        >>> side_returns({"return_good": 1.0, "return_mean": 0.0, "return_std": 0.5})
        {'good': 1.0}
    """
    own = ("return_mean", "return_std")
    return {
        name.removeprefix("return_"): value
        for name, value in result.items()
        if name.startswith("return_") and name not in own and not _OF_AGENT.fullmatch(name)
    }


def _number(name: str, value: torch.Tensor | float) -> float:
    if shape := tuple(getattr(value, "shape", ())):
        raise ValueError(f"The metric {name!r} must be one number, got the shape {shape}.")
    return float(value)


class Evaluation:
    """How good a run's policies are, in environments of their own.

    Where an algorithm has several policies, the best counts. It is chosen on other episodes
    than those that are reported.

    Args:
        task: whose metrics are reported.
        training: how many episodes.
        options: of the task's environments: agents, device, horizon.

    Raises:
        ValueError: if the run is trained from a seed of the evaluations.
    """

    def __init__(self, task: Task, training: TrainingSettings, options: dict[str, Any]):
        if training.seed in (EVALUATION_SEED, _SELECTION_SEED):
            raise ValueError(f"seed must not be {training.seed}: evaluations begin from it.")
        self._task, self._training, self._options = task, training, options
        self.env = make_env(
            task, num_envs=training.evaluation_episodes, seed=EVALUATION_SEED, **options
        )
        self.selection_env: EnvBase | None = None
        self._sides: Mapping[str, Sequence[int]] = {}

    def prepare(self, algorithm: Learner) -> None:
        """Make the environments such that an algorithm's policies can act in them.

        Args:
            algorithm: whose policies are evaluated from here on.

        Raises:
            ValueError: if an agent is allowed no action at the beginning.

        Warns:
            UserWarning: if the task's environments do not begin alike from one seed.
        """
        self._check_beginning()
        self._sides = sides_played(self.env, algorithm)
        self.env = with_memory(self.env, algorithm)
        if len(algorithm.candidates()) > 1:
            episodes = self._training.selection_episodes
            # Known before anything is appended: an error there leaves it to be closed.
            self.selection_env = make_env(
                self._task, num_envs=episodes, seed=_SELECTION_SEED, **self._options
            )
            self.selection_env = with_memory(self.selection_env, algorithm)

    def close(self) -> None:
        """Close the environments, after which nothing is evaluated."""
        with ExitStack() as closing:
            for env in (self.env, self.selection_env):
                if env is not None:
                    closing.callback(close_env, env)

    def _check_beginning(self) -> None:
        starts = []
        with preserve_random_state():
            for _ in range(2):
                _seed(self.env, EVALUATION_SEED)
                begun = self.env.reset()
                check_allowed(begun, 0)
                starts.append(begun[OBSERVATION])
        if not torch.equal(*starts):
            warnings.warn(
                "The task's environments begin otherwise from the same seed: evaluations are not "
                "of the same episodes, and the run cannot be made again. Let _set_seed seed all "
                "that the environment draws from.",
                stacklevel=2,
            )

    @property
    def components(self) -> dict[str, Any]:
        """What of it a checkpoint has: the environments that can give their state."""
        environments = {"evaluation_environment": self.env}
        if self.selection_env is not None:
            environments["selection_environment"] = self.selection_env
        states = {name: environment_state(env) for name, env in environments.items()}
        return {name: state for name, state in states.items() if state is not None}

    def measure(
        self, candidates: Sequence[TensorDictModuleBase]
    ) -> tuple[dict[str, float], dict[str, float], TensorDictBase]:
        """The best of some policies: its metrics, how it was chosen, its episodes ``[B, T]``.

        Args:
            candidates: of which one alone is not chosen.
        """
        if len(candidates) == 1:
            result, episodes = self.evaluate(candidates[0])
            return result, {}, episodes
        returns = [
            self.evaluate(policy, env=self.selection_env, seed=_SELECTION_SEED)[0]["return_mean"]
            for policy in candidates
        ]
        chosen = returns.index(max(returns))
        result, episodes = self.evaluate(candidates[chosen])
        selection = {f"return_{k}": value for k, value in enumerate(returns)}
        return result, selection | {"chosen": chosen}, episodes

    def evaluate(
        self,
        policy: Callable[[TensorDictBase], TensorDictBase] | None,
        *,
        env: EnvBase | None = None,
        seed: int = EVALUATION_SEED,
    ) -> tuple[dict[str, float], TensorDictBase]:
        """As :func:`evaluate`, with the run's settings.

        Args:
            policy: or None, for a random team.
            env: Default: that of the evaluations.
            seed: of the initial states.
        """
        return evaluate(
            policy,
            self.env if env is None else env,
            self._task.metrics,
            horizon=self._options["horizon"],
            seed=seed,
            stop_when_done=self._training.stop_evaluations,
            sides=self._sides,
        )

    def explore(self, policy: TensorDictModuleBase) -> TensorDictBase:
        """Episodes ``[B, T]`` of a policy that explores.

        Args:
            policy: with its noise.
        """
        with preserve_random_state():
            self.env.set_seed(EVALUATION_SEED)
            return self.env.rollout(
                self._options["horizon"],
                Acting(policy, ExplorationType.RANDOM),
                break_when_any_done=False,
            )
