"""Agents that act alone, an episode each, in turns."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import Categorical, Composite
from torchrl.envs import Transform

from torchrl_alita._checks import check_integer, check_whole
from torchrl_alita.layout import TURN

__all__ = ["TakeTurns"]


class TakeTurns(Transform):
    """Says in each environment whose turn it is, ``-> [*B, 1]``, an episode for each agent.

    The turn is written under ``"turn"``. The first episodes after a reset of everything are
    those of agent 0; every later episode of an environment is that of the next agent. It is
    how the paper's auxiliary agent acts in a task for one: Sec. 4.2 of
    https://arxiv.org/abs/2108.12581, in the form of its authors' code.

    Whose turn it is is a buffer, and so a part of its ``state_dict``: a run in the middle of
    an episode is resumed with it.

    Args:
        num_agents: that take turns, at least 2. Default: 2.

    Raises:
        ValueError: if num_agents is no whole number, at least 2.

    Examples:
        >>> from torchrl.envs import TransformedEnv
        >>> from torchrl_alita.envs import make_env
        >>> env = make_env("vmas/spread", num_envs=2, n_agents=1, seed=0, horizon=2)
        >>> env = TransformedEnv(env, TakeTurns(), auto_unwrap=False)
        >>> env.rollout(6, break_when_any_done=False)["turn"][0].flatten().tolist()
        [0, 0, 1, 1, 0, 0]
    """

    def __init__(self, num_agents: int = 2):
        check_whole(2, num_agents=num_agents)
        super().__init__(in_keys=[], out_keys=[TURN])
        self.num_agents = check_integer("num_agents", num_agents)
        # Of no environment until the first reset.
        self.register_buffer("turn", torch.zeros(0, 1, dtype=torch.int64))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set(TURN, self.turn.clone())

    def _reset(
        self, tensordict: TensorDictBase | None, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        reset = None if tensordict is None else tensordict.get("_reset", None)
        if reset is None:
            self.turn = torch.zeros(
                *tensordict_reset.batch_size, 1, dtype=torch.int64, device=tensordict_reset.device
            )
        else:
            self.turn = torch.where(reset, (self.turn + 1) % self.num_agents, self.turn)
        return tensordict_reset.set(TURN, self.turn.clone())

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        observation_spec[TURN] = Categorical(
            self.num_agents,
            shape=(*observation_spec.shape, 1),
            dtype=torch.int64,
            device=observation_spec.device,
        )
        return observation_spec

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A state is of as many environments as it is of.
        self.turn = torch.empty_like(state_dict.get(f"{prefix}turn", self.turn))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
