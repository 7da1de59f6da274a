"""What the team gains from each agent's proxy return, which trains LIIR's rewards."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torch import nn

from torchrl_alita.objectives._rollout import (
    EPSILON,
    check_rollout,
    choosing,
    moments,
    policy_of,
    standardize,
)
from torchrl_alita.objectives.liir import LIIRLoss

__all__ = ["meta_weight"]

# Length of the step with which derivatives along a direction are differences.
_STEP = 1e-2


@torch.no_grad()
def meta_weight(
    loss: LIIRLoss, tensordict: TensorDictBase, old_actor_params: TensorDictBase
) -> torch.Tensor:
    r"""How the team's return grows with each agent's proxy return, ``[*B, T, N, 1]``.

    .. math::
        w_i = \nabla_{\theta'} J^{ex}(\theta') \cdot \nabla_\theta \log \pi_i(a_i | o_i),
        \qquad
        J^{ex}(\theta') = E \Big[ \bar A^{ex} \prod_i
        \frac{\pi_{\theta', i}(a_i | o_i)}{\pi_{\theta, i}(a_i | o_i)} \Big]

    with the old policies theta and the present ones theta', which a step has made of them.
    Source: https://arxiv.org/abs/1910.01899. A step along the gradient of an advantage moves
    theta along its score: the product is what that brings the team, up to the step's size.
    Where the advantages are normalized, it is that of the return which comes before.

    The authors' code multiplies the mean of all scores instead, so that one number weighs the
    whole batch, and descends where it should ascend. The mean of the scores is 0 but for
    chance: of B T N independent scores its expected step is a share 1 / (B T N) of this one,
    with the opposite sign.

    The product with a score is the derivative of the log-probability along the gradient, here
    a central difference.

    Args:
        loss: with the present policies.
        tensordict: rollout ``[*B, T]`` of the old policies.
        old_actor_params: theta, which is ``loss.actor_network_params.data.clone()`` before the
            step.

    Returns:
        ``[*B, T, N, 1]``, without gradient.

    Raises:
        ValueError: if the batch is empty, its entries do not fit each other, or there is no
            dimension of time.
        KeyError: if the batch lacks a key, or a network does not write one.

    Examples:
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_alita.envs import make_env
        >>> from torchrl_alita.modules import (
        ...     make_actor,
        ...     make_counterfactual_critic,
        ...     make_team_value,
        ... )
        >>> from torchrl_alita.objectives import IntrinsicRewardLoss
        >>> env = make_env("push_box", num_envs=5, n_agents=2, seed=0)
        >>> key = ("agents", "intrinsic_reward")
        >>> intrinsic = IntrinsicRewardLoss(make_counterfactual_critic(env, out_key=key))
        >>> values = make_team_value(env), make_team_value(env)
        >>> liir = LIIRLoss(make_actor(env), *values, intrinsic)
        >>> updater = SoftUpdate(liir, tau=0.01)
        >>> old = liir.actor_network_params.data.clone()
        >>> meta_weight(liir, env.rollout(4), old).shape
        torch.Size([5, 4, 2, 1])
    """
    batch = check_rollout(loss, tensordict)
    advantage, extrinsic = loss.advantages(batch)
    old = _scores(loss, batch, old_actor_params)
    direction = _climb(loss, batch, extrinsic, old)
    norm = torch.stack([part.square().sum() for part in direction.values()]).sum().sqrt()
    size = _STEP / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    ahead, behind = (
        _scores(loss, batch, _moved(old_actor_params, direction, sign * size)) for sign in (1, -1)
    )
    counted = choosing(loss, batch)
    weight = torch.where(counted, (ahead - behind).unsqueeze(-1) / (2 * size), 0)
    return _before_normalizing(weight, advantage, counted) if loss.normalize_advantage else weight


def _scores(loss: LIIRLoss, batch: TensorDictBase, params: TensorDictBase) -> torch.Tensor:
    """Log-probability of each agent's action, ``[*B, T, N]``."""
    policy = policy_of(loss.actor_network, params, batch).distribution
    return policy.log_prob(batch.get(loss.tensor_keys.action))


def _climb(
    loss: LIIRLoss, batch: TensorDictBase, extrinsic: torch.Tensor, old: torch.Tensor
) -> dict[NestedKey, torch.Tensor]:
    """Gradient of the team's return at the present policies, by parameter."""
    params = loss.actor_network_params
    trained = {
        name: param for name, param in params.items(True, True) if isinstance(param, nn.Parameter)
    }
    with torch.enable_grad():
        ratio = (_scores(loss, batch, params) - old).sum(-1).exp()
        team = extrinsic.mean((-1, -2))
        gain = loss._reduce_loss(team * ratio, tensordict=batch, reduction="mean")
        gradients = torch.autograd.grad(gain, tuple(trained.values()))
    return dict(zip(trained, gradients, strict=True))


def _moved(
    params: TensorDictBase, direction: dict[NestedKey, torch.Tensor], size: torch.Tensor
) -> TensorDictBase:
    """Parameters a step along a direction."""
    moved = params.clone()
    for name, part in direction.items():
        moved.set(name, params.get(name) + size * part)
    return moved


def _before_normalizing(
    weight: torch.Tensor, advantage: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    """What a weight on normalized advantages is on those before, ``[*B, T, N, 1]``."""
    normal = standardize(advantage, counted)
    _, deviation = moments(advantage, counted)
    mean, _ = moments(weight, counted)
    along, _ = moments(weight * normal, counted)
    return torch.where(counted, weight - mean - along * normal, 0) / (deviation + EPSILON)
