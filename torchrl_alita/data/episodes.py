"""What the last episodes began with, and what they returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import nn

from torchrl_alita._checks import check_at_least_one, require_keys
from torchrl_alita.layout import DONE, IS_INIT, REWARD, next_key

__all__ = ["EpisodeReturns"]

EPISODE_RETURN = "episode_return"


class EpisodeReturns(nn.Module):
    """The first step and the return of each of the last episodes, ``[B, T] -> [E]``.

    Rollouts are given one after the other, as a collector returns them; episodes go on from one
    to the next. The return is the sum of the rewards, mean over the agents, without a discount.
    An episode whose beginning was not given does not count. All of it is in ``state_dict()``.

    Args:
        size: most episodes that are remembered; the oldest are forgotten.
        keys: what is kept of an episode's first step.
        reward: key read in "next", ``[B, T, N, 1]``. Default: ``("agents", "reward")``.
        done: key read in "next". Default: ``"done"``.
        is_init: key read, whether an episode begins. Default: ``"is_init"``.

    Attributes:
        finished: the episodes ``[E]``, from the oldest to the newest: ``keys`` and
            ``"episode_return"``.
        new (int): those that ended since it was last set to 0.

    Raises:
        ValueError: if the size is no whole number, or below 1; when called, if a rollout is not
            ``[B, T]``, or of other environments than the last one.
        KeyError: when called, if a rollout lacks a key.

    Examples:
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl.envs import InitTracker
        >>> env = make_env("push_box", num_envs=5, n_agents=2, horizon=3, seed=0)
        >>> env = env.append_transform(InitTracker("is_init"))
        >>> episodes = EpisodeReturns(8, keys=[("agents", "observation")])
        >>> episodes.observe(env.rollout(5, break_when_any_done=False))
        >>> episodes.finished.batch_size, episodes.new
        (torch.Size([5]), 5)
        >>> episodes.observe(env.rollout(4, break_when_any_done=False))
        >>> episodes.finished["episode_return"].shape, episodes.new
        (torch.Size([8]), 10)
    """

    def __init__(
        self,
        size: int,
        *,
        keys: Sequence[NestedKey],
        reward: NestedKey = REWARD,
        done: NestedKey = DONE,
        is_init: NestedKey = IS_INIT,
    ):
        super().__init__()
        check_at_least_one(size=size)
        self.size = size
        self.keys = list(keys)
        self.in_keys = [*self.keys, is_init, next_key(reward), next_key(done)]
        self.finished = TensorDict(batch_size=[0])
        self.new = 0
        # Of each environment: the first step, the return so far, and whether both are known.
        self._running: TensorDictBase | None = None

    @torch.no_grad()
    def observe(self, rollout: TensorDictBase) -> None:
        """Follow the episodes through a rollout.

        Args:
            rollout: ``[B, T]``, in order of time, that goes on where the last one ended.
        """
        require_keys(rollout, self.in_keys)
        if rollout.ndim != 2:
            raise ValueError(f"A rollout must be [B, T], got {tuple(rollout.batch_size)}.")
        *_, is_init, reward, done = (rollout.get(key) for key in self.in_keys)
        reward = reward.mean((-1, -2))
        steps = rollout.select(*self.keys)
        steps[EPISODE_RETURN] = torch.zeros_like(reward)
        steps["known"] = torch.ones_like(reward, dtype=torch.bool)
        running = self._of_the_same(steps[:, 0])
        ended = []
        for step in range(rollout.shape[1]):
            running = steps[:, step].where(is_init[:, step].flatten(), running)
            running[EPISODE_RETURN] = running[EPISODE_RETURN] + reward[:, step]
            ends = done[:, step].flatten()
            ended.append(running[ends & running["known"]])
            running["known"] = running["known"] & ~ends
        self._running = running
        found = torch.cat(ended).exclude("known")
        self.new += len(found)
        if len(found):
            known = [self.finished.to(found.device), found] if len(self.finished) else [found]
            self.finished = torch.cat(known)[-self.size :].clone()

    def _of_the_same(self, first: TensorDictBase) -> TensorDictBase:
        """What runs in these environments, whose first step of a rollout is given."""
        if self._running is None:
            return first.apply(torch.zeros_like)
        if self._running.batch_size != first.batch_size:
            raise ValueError(
                f"The episodes are of {len(self._running)} environments, got {len(first)}."
            )
        return self._running.to(first.device)

    def sample(self, size: int) -> TensorDictBase:
        """So many of the episodes, drawn at random, with replacement.

        Args:
            size: how many.

        Returns:
            ``[size]``.

        Raises:
            ValueError: if no episode has ended.

        Examples:
            >>> EpisodeReturns(8, keys=["state"]).sample(3)
            Traceback (most recent call last):
            ...
            ValueError: No episode has ended yet.
        """
        if not len(self.finished):
            raise ValueError("No episode has ended yet.")
        rows = torch.randint(len(self.finished), (size,), device=self.finished.device)
        return self.finished[rows]

    def get_extra_state(self) -> dict[str, Any]:
        """Everything that rollouts have changed; torch puts it into ``state_dict()``."""
        return {
            "finished": self.finished.state_dict() if len(self.finished) else None,
            "running": None if self._running is None else self._running.state_dict(),
            "new": self.new,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take it over.

        Args:
            state: of :meth:`get_extra_state`.
        """
        finished, running = (_restored(state[name]) for name in ("finished", "running"))
        self.finished = TensorDict(batch_size=[0]) if finished is None else finished[-self.size :]
        self._running, self.new = running, state["new"]


def _restored(state: dict[str, Any] | None) -> TensorDictBase | None:
    return None if state is None else TensorDict().load_state_dict(state, strict=False)
