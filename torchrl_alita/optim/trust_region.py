"""The natural gradient by conjugate gradients, with a line search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn

from torchrl_alita._checks import (
    check_at_least_one,
    check_non_negative,
    check_number,
    check_positive,
)

__all__ = ["TrustRegion", "TrustRegionStep", "conjugate_gradient"]


def conjugate_gradient(
    product: Callable[[torch.Tensor], torch.Tensor],
    target: torch.Tensor,
    *,
    iterations: int = 10,
    tolerance: float = 1e-10,
) -> torch.Tensor:
    """Solve F x = b for a symmetric positive matrix F of which only products are known.

    Source: Hestenes and Stiefel, 1952. In exact arithmetic P iterations solve it.

    Args:
        product: x -> F x, ``[P] -> [P]``.
        target: b, ``[P]``.
        iterations: at most, at least 1.
        tolerance: it ends where the squared norm of b - F x is at most this share of b's.

    Returns:
        x, ``[P]``.

    Raises:
        ValueError: if an argument is out of range.

    Examples:
        >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
        >>> conjugate_gradient(lambda x: matrix @ x, torch.tensor([1.0, 2.0]))
        tensor([0.0909, 0.6364])
    """
    check_at_least_one(iterations=iterations)
    check_non_negative(tolerance=tolerance)
    solution = torch.zeros_like(target)
    rest, direction = target.clone(), target.clone()
    square = rest @ rest
    enough = tolerance * square
    for _ in range(iterations):
        if square <= enough:
            break
        moved = product(direction)
        step = square / (direction @ moved)
        solution += step * direction
        rest -= step * moved
        square, before = rest @ rest, square
        direction = rest + square / before * direction
    return solution


class TrustRegionStep(NamedTuple):
    """What a step of :class:`TrustRegion` did, scalars.

    ``share`` is that of the longest step which the line search took, 0 if none was better;
    ``objective`` and ``kl`` are those of the parameters after it.
    """

    share: torch.Tensor
    objective: torch.Tensor
    kl: torch.Tensor


class TrustRegion(torch.optim.Optimizer):
    r"""The step of trust region policy optimization.

    .. math::
        x = (F + \lambda)^{-1} \nabla L, \qquad
        \theta \leftarrow \theta - \beta^k \sqrt{\frac{2 \delta}{x^T (F + \lambda) x}} \; x

    F is the second derivative of the mean divergence from the policy that acted, at the
    present parameters; only its products with vectors are computed. k is the least whole number
    with which the objective falls and the divergence is at most :math:`\delta`. Where there
    is none, the parameters stay as they were.

    Source: https://arxiv.org/abs/1502.05477, Appendix C.

    Args:
        params: of the policy.
        max_kl: delta, positive. Default: 0.01, the paper's.
        damping: lambda, at least 0. Default: 0.1.
        iterations: of the conjugate gradients. Default: 10, the paper's.
        shrinkage: beta, in (0, 1). Default: 0.5.
        searches: lengths that the line search tries, at least 1. Default: 10.

    Raises:
        ValueError: if an argument is out of range.

    Examples:
        >>> mean = nn.Parameter(torch.zeros(2))
        >>> optimizer = TrustRegion([mean], max_kl=0.02, damping=0.0)
        >>> before = mean.detach().clone()
        >>> done = optimizer.step(
        ...     lambda: -mean.sum(), lambda: 0.5 * (mean - before).square().sum()
        ... )
        >>> mean.detach()  # 0.2 from where it was: its divergence is 0.02
        tensor([0.1414, 0.1414])
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        max_kl: float = 0.01,
        damping: float = 0.1,
        iterations: int = 10,
        shrinkage: float = 0.5,
        searches: int = 10,
    ):
        check_positive(max_kl=max_kl)
        check_non_negative(damping=damping)
        check_at_least_one(iterations=iterations, searches=searches)
        check_number(shrinkage=shrinkage)
        if not 0 < shrinkage < 1:
            raise ValueError(f"shrinkage must be in (0, 1), got {shrinkage}.")
        defaults = {
            "max_kl": float(max_kl),
            "damping": float(damping),
            "iterations": int(iterations),
            "shrinkage": float(shrinkage),
            "searches": int(searches),
        }
        super().__init__(params, defaults)

    @torch.enable_grad()
    def step(
        self,
        objective: Callable[[], torch.Tensor],
        divergence: Callable[[], torch.Tensor],
    ) -> TrustRegionStep:
        """One step down the objective.

        Args:
            objective: a scalar, that of :class:`torchrl_alita.TRPOLoss` for example.
            divergence: a scalar, the mean divergence from the policy that acted; 0, with
                gradient 0, at the present parameters.

        Returns:
            A :class:`TrustRegionStep`.
        """
        options = self.param_groups[0]
        params = [param for group in self.param_groups for param in group["params"]]
        before, kl = objective(), divergence()
        gradient = _flat_grad(before, params)
        slope = _flat_grad(kl, params, create_graph=True)

        def product(vector: torch.Tensor) -> torch.Tensor:
            curved = _flat_grad(slope @ vector, params, retain_graph=True)
            return curved + options["damping"] * vector

        direction = conjugate_gradient(product, gradient, iterations=options["iterations"])
        curvature = direction @ product(direction)
        if not curvature > 0:
            return TrustRegionStep(torch.zeros_like(before), before.detach(), kl.detach())
        longest = -(2 * options["max_kl"] / curvature).sqrt() * direction
        return self._search(params, longest, (before, kl), objective, divergence)

    @torch.no_grad()
    def _search(
        self,
        params: list[nn.Parameter],
        longest: torch.Tensor,
        start: tuple[torch.Tensor, torch.Tensor],
        objective: Callable[[], torch.Tensor],
        divergence: Callable[[], torch.Tensor],
    ) -> TrustRegionStep:
        options = self.param_groups[0]
        own = [param.clone() for param in params]
        moves = longest.split([param.numel() for param in params])
        for k in range(options["searches"]):
            share = options["shrinkage"] ** k
            for param, origin, move in zip(params, own, moves, strict=True):
                param.copy_(origin + share * move.view_as(param))
            reached, kl = objective(), divergence()
            if reached < start[0] and kl <= options["max_kl"]:
                return TrustRegionStep(torch.full_like(kl, share), reached, kl)
        for param, origin in zip(params, own, strict=True):
            param.copy_(origin)
        before, kl = start
        return TrustRegionStep(torch.zeros_like(before), before.detach(), kl.detach())


def _flat_grad(
    value: torch.Tensor,
    params: list[nn.Parameter],
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> torch.Tensor:
    """The gradient as one vector ``[P]``, 0 where a parameter has none."""
    retain = create_graph if retain_graph is None else retain_graph
    grads = torch.autograd.grad(
        value, params, create_graph=create_graph, retain_graph=retain, allow_unused=True
    )
    return torch.cat(
        [
            (torch.zeros_like(param) if grad is None else grad).reshape(-1)
            for param, grad in zip(params, grads, strict=True)
        ]
    )
