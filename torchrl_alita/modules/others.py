"""What others will do, as one agent could bring it about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDict
from tensordict.nn import TensorDictModuleBase
from torch import nn

from torchrl_alita._borrow import borrow
from torchrl_alita._checks import check_at_least_one, check_whole, require_written, sizes
from torchrl_alita.layout import LOGITS, OBSERVATION
from torchrl_alita.modules._acting import run_network
from torchrl_alita.modules._mlp import multi_agent_mlp

__all__ = ["ModelOfOthers", "PoliciesOfOthers"]


class ModelOfOthers(nn.Module):
    r"""Each agent's model of what the others do next, ``-> [*B, N, A, N, A]``.

    Agent k's network sees its own observation and the actions of the others, and gives, for
    each of its own A actions at once, the logits of everybody's next action:
    :math:`p(a^j_{t+1} | a^k_t, a^{-k}_t, s^k_t)`.

    Source: the model of other agents of https://arxiv.org/abs/1810.08647, without its
    memory: what is remembered must be observed.

    Args:
        num_agents: N, at least 2.
        observation_size: O.
        num_actions: A.
        num_cells: width of each hidden layer. Default: (64, 64).
        device: of the parameters.

    Raises:
        ValueError: if a number is too small.
        TypeError: if num_cells is no sequence.

    Examples:
        >>> model = ModelOfOthers(2, observation_size=7, num_actions=5)
        >>> model(torch.zeros(3, 2, 7), torch.zeros(3, 2, 5)).shape
        torch.Size([3, 2, 5, 2, 5])
    """

    def __init__(
        self,
        num_agents: int,
        *,
        observation_size: int,
        num_actions: int,
        num_cells: Sequence[int] = (64, 64),
        device: torch.device | str | None = None,
    ):
        super().__init__()
        check_whole(2, num_agents=num_agents)
        check_at_least_one(observation_size=observation_size, num_actions=num_actions)
        self.num_agents, self.num_actions = num_agents, num_actions
        self.net = multi_agent_mlp(
            num_agents=num_agents,
            in_features=observation_size + num_agents * num_actions,
            out_features=num_actions * num_agents * num_actions,
            num_cells=sizes("num_cells", num_cells),
            layer_norm=False,
            device=device,
        )

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        shape = (*observation.shape[:-2], self.num_agents, self.num_actions)
        if tuple(action.shape) != shape:
            raise ValueError(f"The action must have the shape {shape}, got {tuple(action.shape)}.")
        own = torch.eye(self.num_agents, dtype=torch.bool, device=action.device).unsqueeze(-1)
        # Row k: all actions but k's own.
        others = action.unsqueeze(-3).to(observation.dtype).masked_fill(own, 0).flatten(-2)
        logits = self.net(torch.cat([observation, others], -1))
        return logits.unflatten(-1, (self.num_actions, self.num_agents, self.num_actions))


class PoliciesOfOthers(nn.Module):
    r"""The others' own policies, where they see what is done in the same step.

    ``[*B, N, O], [*B, N, A] -> [*B, N, A, N, A]``: for each agent k, each action that k could
    take, the logits of each agent j's policy :math:`\pi_j(a_j | a_k, a_{-k}, s_j)`.

    Source: the basic influence of https://arxiv.org/abs/1810.08647, where agents act one
    after the other. The policies must read the actions of the step under a key of
    their own; what j may not see, as its own and those of agents that act later, it gets as
    zeros.

    Args:
        actor_network: policies that write logits ``[*B, N, A]`` and read the observation and
            ``seen_action``; borrowed.
        sees: bool ``[N, N]``, row j: whose actions j sees.
        seen_action: key of what each agent sees, ``[*B, N, N * A]``. Default:
            ``("agents", "seen_action")``.
        observation: key of the observation. Default: ``("agents", "observation")``.
        logits: key that the policies write. Default: ``("agents", "logits")``.

    Raises:
        ValueError: if the policies do not read what they should see, nobody sees anybody, or
            an agent sees its own action.
        KeyError: if they do not write logits.

    Examples:
        >>> from tensordict.nn import TensorDictModule
        >>> keys = [("agents", "observation"), ("agents", "seen_action")]
        >>> net = TensorDictModule(lambda o, seen: seen[..., :2], keys, [("agents", "logits")])
        >>> second_sees_first = torch.tensor([[False, False], [True, False]])
        >>> logits = PoliciesOfOthers(net, sees=second_sees_first)(
        ...     torch.zeros(2, 3), torch.eye(2)
        ... )
        >>> logits[0, :, 1]
        tensor([[1., 0.],
                [0., 1.]])
    """

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        *,
        sees: torch.Tensor,
        seen_action: NestedKey = ("agents", "seen_action"),
        observation: NestedKey = OBSERVATION,
        logits: NestedKey = LOGITS,
    ):
        super().__init__()
        require_written(actor_network, logits)
        if seen_action not in actor_network.in_keys or not bool(sees.any()):
            raise ValueError(
                "Agents that see nothing of each other have no influence in the same step: the "
                f"policies read {actor_network.in_keys}, and sees is {sees.tolist()}. Let them "
                f"read {seen_action}, or use ModelOfOthers."
            )
        if sees.ndim != 2 or sees.shape[0] != sees.shape[1] or bool(sees.diagonal().any()):
            raise ValueError(f"sees must be [N, N] with nobody seeing itself, got {sees.tolist()}.")
        borrow(self, "actor_network", actor_network)
        self.register_buffer("sees", sees.bool(), persistent=False)
        self.seen_action, self.observation, self.logits = seen_action, observation, logits

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        num_agents, num_actions = action.shape[-2:]
        lead = action.shape[:-2]
        if num_agents != self.sees.shape[0]:
            raise ValueError(f"sees is of {self.sees.shape[0]} agents, got {num_agents}.")
        own = torch.eye(num_agents, dtype=torch.bool, device=action.device)
        # The joint action in which k does each of its A actions, [*B, N(k), A, N, A].
        each = torch.eye(num_actions, dtype=action.dtype, device=action.device)
        joint = torch.where(own[:, None, :, None], each[:, None], action[..., None, None, :, :])
        seen = joint.unsqueeze(-3) * self.sees.unsqueeze(-1)
        whole = (*lead, num_agents, num_actions)
        entries = {
            self.observation: observation[..., None, None, :, :].expand(*whole, -1, -1),
            self.seen_action: seen.flatten(-2),
        }
        # What they would do is not drawn: that would change the random numbers of the run.
        batch = TensorDict(entries, whole)
        return run_network(self.actor_network, batch, recurrent=False, draw=False).get(self.logits)
