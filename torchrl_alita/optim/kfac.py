"""Natural gradients of linear layers, by Kronecker factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from torchrl_alita._checks import check_at_least_one, check_below_one, check_positive
from torchrl_alita.modules.stacked_linear import StackedLinear

__all__ = ["KFAC"]

Layer: TypeAlias = nn.Linear | StackedLinear


class KFAC(torch.optim.Optimizer):
    r"""Natural gradient with Kronecker factors, within a trust region.

    The Fisher matrix of a layer that makes outputs from inputs a, with a 1 appended for the
    bias, is taken to be a Kronecker product, and that of a network to have one such block for
    each layer,

    .. math::
        F &\approx A \otimes G, \qquad A = E[a a^T], \qquad G = E[g g^T] \\
        v &= (A \otimes G + \lambda)^{-1} \nabla L, \qquad m \leftarrow \mu m + v, \qquad
        \theta \leftarrow \theta - \eta m \\
        \eta &= \min\left(lr, \sqrt{2 \delta / m^T (A \otimes G + \lambda) m}\right)

    where g is the gradient of the logarithm of a drawn outcome's probability with respect to
    the layer's outputs, and both means run along with a decay. The step is measured after the
    momentum mu is added, so that it too keeps the divergence that the model predicts at or
    below :math:`\delta`.

    Source: https://arxiv.org/abs/1503.05671 for the factors,
    https://arxiv.org/abs/1708.05144 (ACKTR) for the trust region.

    Args:
        module: its parameters must all lie in layers ``torch.nn.Linear`` or
            :class:`torchrl_alita.modules.StackedLinear`. A free parameter, as a Gaussian's
            scale, is a ``Linear`` of a constant 1.
        lr: largest step, positive. Default: 0.25, ACKTR's.
        max_kl: delta, positive. Default: 0.001, ACKTR's.
        momentum: mu, in [0, 1). Default: 0.9.
        damping: lambda, positive, added to the eigenvalues of each block. Default: 0.01.
        decay: share of the old factors that each observation keeps, in [0, 1); the first
            observations keep less, 1 - 1/k at the k-th. Default: 0.99.
        basis_interval: observations from one eigendecomposition of the factors to the next.
            Default: 10.

    Raises:
        ValueError: if an argument is out of range, or a parameter lies in another kind of
            layer.

    Examples:
        >>> net = nn.Linear(3, 2)
        >>> optimizer = KFAC(net, lr=0.1)
        >>> inputs, targets = torch.randn(7, 3), torch.randn(7, 2)
        >>> def log_prob():
        ...     mean = net(inputs)
        ...     drawn = (mean + torch.randn_like(mean)).detach()
        ...     return -0.5 * (drawn - mean).square().sum(-1)
        >>> optimizer.observe(log_prob)
        >>> (net(inputs) - targets).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float = 0.25,
        max_kl: float = 0.001,
        momentum: float = 0.9,
        damping: float = 0.01,
        decay: float = 0.99,
        basis_interval: int = 10,
    ):
        check_positive(lr=lr, max_kl=max_kl, damping=damping)
        check_below_one(momentum=momentum, decay=decay)
        check_at_least_one(basis_interval=basis_interval)
        self.layers: list[Layer] = [part for part in module.modules() if isinstance(part, Layer)]
        params = [param for layer in self.layers for param in layer.parameters()]
        known = {id(param) for param in params}
        other = [name for name, p in module.named_parameters() if id(p) not in known]
        if other or not params:
            raise ValueError(f"KFAC needs parameters of linear layers alone, got {other or None}.")
        defaults = {
            "lr": float(lr),
            "max_kl": float(max_kl),
            "momentum": float(momentum),
            "damping": float(damping),
            "decay": float(decay),
            "basis_interval": int(basis_interval),
        }
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"layers": self.layers}

    def observe(self, log_prob: Callable[[], torch.Tensor]) -> None:
        """Move the factors towards those of the present network.

        Args:
            log_prob: runs the module once, draws from its distribution without gradient, and
                returns the logarithm of the probabilities of what was drawn, one entry for
                each distribution. The trust region is on the mean over the entries.

        Raises:
            ValueError: if a layer was not run, or several times.
        """
        runs: dict[Layer, list[Any]] = {layer: [] for layer in self.layers}
        hooks = [
            layer.register_forward_hook(
                lambda layer, inputs, output: runs[layer].append((inputs[0].detach(), output))
            )
            for layer in self.layers
        ]
        try:
            with torch.enable_grad():
                drawn = log_prob()
        finally:
            for hook in hooks:
                hook.remove()
        for layer, found in runs.items():
            if len(found) != 1:
                raise ValueError(f"KFAC needs every layer run once, got {len(found)} of {layer}.")
        outputs = [found[0][1] for found in runs.values()]
        grads = torch.autograd.grad(drawn.sum(), outputs)
        with torch.no_grad():
            for (layer, ((inputs, _),)), grad in zip(runs.items(), grads, strict=True):
                self._move_factors(layer, inputs, grad, drawn.numel())

    def _move_factors(
        self, layer: Layer, inputs: torch.Tensor, grad: torch.Tensor, count: int
    ) -> None:
        options, state = self.param_groups[0], self.state[layer.weight]
        inputs = _rows(layer, inputs)
        if layer.bias is not None:
            inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)
        grad = _rows(layer, grad)
        found = {
            "input_factor": inputs.mT @ inputs / inputs.shape[-2],
            "output_factor": grad.mT @ grad / count,
        }
        if not state:
            state.update(found, observations=0)
        # At first the mean over all observations, so that the first of them does not stay.
        kept = min(options["decay"], 1 - 1 / (state["observations"] + 1))
        for name, factor in found.items():
            state[name] = torch.lerp(factor, state[name], kept)
        if state["observations"] % options["basis_interval"] == 0:
            for side in ("input", "output"):
                factor = state[f"{side}_factor"]
                # In single precision it fails for some factors of low rank, or gives NaN.
                values, vectors = torch.linalg.eigh(factor.double())
                state[f"{side}_values"] = values.clamp_min(0).to(factor.dtype)
                state[f"{side}_basis"] = vectors.to(factor.dtype)
        state["observations"] += 1

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One step along the natural gradient.

        Args:
            closure: computes the loss and its gradients. Default: the gradients are there.

        Returns:
            What the closure returned.

        Raises:
            ValueError: before the first :meth:`observe`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        options = self.param_groups[0]
        layers = [layer for layer in self.layers if layer.weight.grad is not None]
        moves, squares = [], 0.0
        for layer in layers:
            state = self.state[layer.weight]
            if "observations" not in state:
                raise ValueError("KFAC has no factors: call observe() before step().")
            natural = _precondition(state, _gradient(layer), options["damping"])
            before = state.get("momentum")
            move = natural if before is None else options["momentum"] * before + natural
            state["momentum"] = move
            product = state["output_factor"] @ move @ state["input_factor"]
            squares = squares + (move * (product + options["damping"] * move)).sum()
            moves.append(move)
        if layers:
            size = (2 * options["max_kl"] / squares).sqrt().clamp_max(options["lr"])
        for layer, move in zip(layers, moves, strict=True):
            layer.weight.sub_(size * move[..., : layer.weight.shape[-1]])
            if layer.bias is not None:
                layer.bias.sub_(size * move[..., -1])
        return loss


def _rows(layer: Layer, values: torch.Tensor) -> torch.Tensor:
    """``[*B, F] -> [M, F]``; of stacked layers ``[*B, N, F] -> [N, M, F]``."""
    if isinstance(layer, nn.Linear):
        return values.reshape(-1, values.shape[-1])
    return values.movedim(-2, 0).flatten(1, -2)


def _gradient(layer: Layer) -> torch.Tensor:
    """Weight's and bias's side by side, ``[(N,) out, in + 1]``."""
    if layer.bias is None:
        return layer.weight.grad
    return torch.cat([layer.weight.grad, layer.bias.grad.unsqueeze(-1)], -1)


def _precondition(
    state: dict[str, torch.Tensor], gradient: torch.Tensor, damping: float
) -> torch.Tensor:
    """Solve (A x G + damping) v = gradient in the basis of both factors."""
    rows, columns = state["output_basis"], state["input_basis"]
    values = state["output_values"].unsqueeze(-1) * state["input_values"].unsqueeze(-2)
    return rows @ ((rows.mT @ gradient @ columns) / (values + damping)) @ columns.mT
