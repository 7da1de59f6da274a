"""Transitions of several steps."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase

from torchrl_alita import functional
from torchrl_alita._checks import require_keys
from torchrl_alita.layout import DONE, REWARD, STEPS, TERMINATED, next_key

__all__ = ["n_step_transitions"]


def n_step_transitions(
    runs: TensorDictBase,
    *,
    gamma: float | torch.Tensor,
    reward: NestedKey = REWARD,
    done: NestedKey = DONE,
    terminated: NestedKey = TERMINATED,
) -> TensorDictBase:
    r"""Transitions of n steps, of runs of n consecutive steps, ``[*B, n] -> [*B]``.

    Each begins where its run does, and ends after n steps or where the episode ends; the reward
    is :func:`torchrl_alita.functional.n_step_return`. What the run has of the next episode is
    left out. ``"steps_to_next_obs"`` says of how many steps it is, the name that TorchRL's losses
    and :class:`torchrl_alita.MADDPGLoss` read.

    TorchRL's MultiStepTransform sums rewards when they are stored. Here it is done when a batch
    is drawn, after bonuses are added to it: they are of networks that learn, and what they pay
    for a stored step is not known before. Its ``done_keys`` also keep ``terminated`` as it was in
    the first step, so that a target would look beyond an episode's end.

    Args:
        runs: ``[*B, n]``, as of :class:`torchrl_alita.data.SequenceSampler`.
        gamma: discount factor of a step, in [0, 1].
        reward: key of the reward that is summed, in "next".
        done: key of the flag of an episode's last step, in "next", ``[*B, n, 1]``.
        terminated: key of the flag of termination, in "next", ``[*B, n, 1]`` or
            ``[*B, n, N, 1]``.

    Returns:
        A new batch ``[*B]`` with ``"steps_to_next_obs"`` ``[*B, 1]``. All else in "next" is of
        the last step, all else of the first.

    Raises:
        ValueError: if there is no dimension of time, or shapes do not fit each other.
        TypeError: if a flag is not bool.
        KeyError: if the batch lacks a key.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=5, n_agents=3, seed=0)
        >>> batch = n_step_transitions(env.rollout(4), gamma=0.95)
        >>> batch.batch_size, batch["steps_to_next_obs"].flatten()
        (torch.Size([5]), tensor([4, 4, 4, 4, 4]))
    """
    time = runs.ndim - 1
    if time < 0:
        raise ValueError("Runs need a dimension of time, the last one.")
    keys = [next_key(key) for key in (reward, terminated, done)]
    require_keys(runs, keys)
    earned, terminations, ends = (runs.get(key) for key in keys)
    total, stopped, steps = functional.n_step_return(earned, terminations, ends, gamma)
    result = runs[..., 0]
    for key, value in runs.get("next").items(True, True):
        last = (steps - 1).reshape(*steps.shape, *(1,) * (value.ndim - steps.ndim))
        result.set(next_key(key), torch.take_along_dim(value, last, time).squeeze(time))
    result.set(keys[0], total).set(keys[1], stopped)
    return result.set(STEPS, steps)
