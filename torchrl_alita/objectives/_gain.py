"""What each agent of MADDPGLoss climbs, Eq. 2."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita.objectives._critics import critics_values


def gain_of(loss: LossModule, batch: TensorDictBase, policy: TensorDictBase) -> torch.Tensor:
    """What the actors climb, summed over the agents, ``[*B]``; only they get gradient."""
    gain = _values_of_own_actions(loss, batch, policy).sum(-1)
    if not loss.penalized:
        return gain
    logits = policy.get(loss.tensor_keys.logits)
    return gain - loss.logits_coeff * logits.square().mean(-1).sum(-1)


def _values_of_own_actions(
    loss: LossModule, batch: TensorDictBase, policy: TensorDictBase
) -> torch.Tensor:
    """Q^(i) at agent i's own fresh action, ``[*B, N]``."""
    if loss.own_actions == "all":
        return _expected_values(loss, batch, policy)
    key = loss.tensor_keys.action
    own = policy.get(key)
    others = batch.get(key) if loss.others_actions == "buffer" else own.detach()
    return _own_action_values(loss, batch, own, others.to(own.dtype))


def _own_action_values(
    loss: LossModule, batch: TensorDictBase, own: torch.Tensor, others: torch.Tensor
) -> torch.Tensor:
    """Q^(i) with agent i's own action, ``[*B, N]``."""
    keys = loss.tensor_keys
    inputs = batch.copy().set(keys.action, functional.replace_own_action(others, own))
    params = loss.qvalue_network_params.data
    return critics_values(loss.qvalue_network, params, inputs, keys.state_action_value)[..., 0]


def _expected_values(
    loss: LossModule, batch: TensorDictBase, policy: TensorDictBase
) -> torch.Tensor:
    """Mean of Q^(i) over agent i's own actions, ``[*B, N]``."""
    distribution = loss.actor_network.build_dist_from_params(policy)
    shares = distribution.probs.movedim(-1, 0)
    stored = batch.get(loss.tensor_keys.action).to(shares.dtype)
    others = stored if loss.others_actions == "buffer" else distribution.sample()
    own = torch.eye(len(shares), dtype=shares.dtype, device=shares.device)
    own = own.view(-1, *(1,) * (others.ndim - 1), len(shares)).expand(-1, *others.shape)
    with torch.no_grad():
        expanded = batch.expand(len(shares), *batch.batch_size)
        values = _own_action_values(loss, expanded, own, others.expand_as(own))
    return (shares * values).sum(0)
