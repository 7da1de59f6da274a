"""What the losses of the influence share: their checks, the gap, and what they return."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.modules import ValueNorm
from torchrl.objectives import LossModule

from torchrl_alita import functional
from torchrl_alita.objectives._batch import unique
from torchrl_alita.objectives._situation import Situation
from torchrl_alita.objectives.influenced_value import Marginal, Trained
from torchrl_alita.objectives.optimum import AtPolicy, BestOf, Enumerated, TDTarget
from torchrl_alita.objectives.unit import OwnGradient


def check_parts(loss: LossModule, actor_network: TensorDictModuleBase) -> None:
    """Raise unless value, optimum, norm and team of a loss of the influence go together."""
    for name, kinds in (
        ("value", (Marginal, Trained)),
        ("optimum", (AtPolicy, BestOf, Enumerated, TDTarget)),
    ):
        part = getattr(loss, name)
        if not isinstance(part, kinds):
            known = ", ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"{name} must be one of {known}, got {part!r}.")
    if loss.value_norm is not None and not isinstance(loss.value_norm, ValueNorm):
        raise TypeError(f"value_norm must be a ValueNorm or None, got {loss.value_norm!r}.")
    if loss.unit is not None and not isinstance(loss.unit, OwnGradient):
        raise TypeError(f"unit must be OwnGradient or None, got {loss.unit!r}.")
    if loss.team.num_agents is not None:
        loss.team.check_influencees()
    samples = loss.value.samples
    if samples != 1 and not hasattr(actor_network, "get_dist"):
        raise ValueError(
            f"samples={samples!r} needs a stochastic actor, with get_dist; a deterministic one has "
            f"a single action."
        )
    if samples != 1 and loss.team.acts_in_turns:
        raise ValueError(
            f"samples={samples!r} does not go with Team.in_turns(): there are no others."
        )
    loss.value.check(loss.team, loss.critics.partner)
    loss.optimum.check(actor_network, loss.critics)


def influence_keys(loss: LossModule) -> list[NestedKey]:
    """What a loss of the influence reads."""
    keys, critics = loss.tensor_keys, loss.critics
    read = [*critics.in_keys(keys.action), *loss.value.in_keys()]
    if loss.team.attention is not None:
        read += loss.team.attention.in_keys
    return unique([keys.action, *read, *loss.optimum.in_keys(loss.actor_network, critics, keys)])


def gap_of(
    loss: LossModule,
    situation: Situation,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    learn: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | float]:
    """The gap to the optimum in units of the scale, ``[*B, M, 1]``, and that scale.

    In training mode the scale takes the optimum's values first, if it may learn.
    """
    with torch.no_grad():
        known = value.detach() if loss.value.is_policy_value(situation) else None
        optimum, terminated = loss.optimum(situation, known)
        scale = 1.0
        if loss.value_norm is not None:
            if loss.training and learn:
                shown = optimum if mask is None else _same_moments(optimum, mask)
                loss.value_norm.update(shown)
            scale = loss.value_norm.scale()
    return functional.influence_gap(value, optimum, terminated=terminated, scale=scale), scale


def with_gradient_of(value: torch.Tensor, climbed: torch.Tensor) -> torch.Tensor:
    """The one's value with the other's gradient."""
    return value.detach() + climbed - climbed.detach()


def unit_of(
    loss: LossModule, gap: torch.Tensor, weights: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor | float:
    """What F is divided by: the unit of the loss, if it has one."""
    return 1.0 if loss.unit is None else loss.unit(gap, weights, mask)


def results(
    loss: LossModule,
    batch: TensorDictBase,
    total: torch.Tensor,
    influence: torch.Tensor,
    gap: torch.Tensor,
    mask: torch.Tensor | None,
) -> TensorDict:
    """What a loss of the influence returns, of rows ``[*B]``, ``[*B, K]`` and ``[*B, M, 1]``."""
    means = _means(influence.detach(), mask)
    return TensorDict(
        {
            "loss_influence": loss.influence_coeff * loss._reduce_loss(total, tensordict=batch),
            "influence": means.squeeze(0) if influence.shape[-1] == 1 else means,
            "gap": _means(gap.detach().squeeze(-1), mask),
        }
    )


def _means(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Means over the shown rows, ``[*B, M] -> [M]``."""
    rows = values.reshape(-1, values.shape[-1])
    if mask is None:
        return rows.mean(0)
    return rows.where(mask.reshape(-1, 1), 0).sum(0) / mask.sum().clamp_min(1)


def _same_moments(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Two values with the mean and the mean square of the shown rows, ``[*B, M, 1] -> [2, 1]``.

    A compiled graph cannot leave rows out.
    """
    shown = mask[..., None, None].expand_as(values)
    count = shown.sum().clamp_min(1)
    mean = values.where(shown, 0).sum() / count
    spread = (values - mean).square().where(shown, 0).sum().div(count).sqrt()
    return torch.stack([mean - spread, mean + spread]).unsqueeze(-1)
