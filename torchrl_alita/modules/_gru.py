"""A GRU over time for several networks at once, as one operation for the compiler.

Written out, every step of a sequence would be a dozen operations, forwards and backwards, and a
compiler would see each of them. Here the gradient needs five a step, and a compiled update
contains the whole sequence as one call.
"""

from __future__ import annotations

from typing import Any

import torch


def unroll_gru(
    inputs: torch.Tensor,
    begins: torch.Tensor,
    state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    r"""States after each step.

    .. math::
        r, z = \sigma(x^{rz}_t + W^{rz} h + b^{rz}), \quad
        n = \tanh(x^n_t + r (W^n h + b^n)), \quad
        h_t = (1 - z) n + z h

    where h is the state before the step, or 0 where an episode begins: that of
    ``torch.nn.GRU``.

    Args:
        inputs: ``[T, M, R, 3H]``, what R rows of each of M networks bring to the gates:
            reset, update, new.
        begins: bool ``[T, M, R, 1]``, whether an episode begins here.
        state: ``[M, R, H]`` before the first step.
        weight: ``[M, 3H, H]``.
        bias: ``[M, 3H]``.

    Returns:
        ``[T, M, R, H]``.
    """
    states, _ = _unroll(inputs, begins, state, weight, bias)
    return states


@torch.library.custom_op("torchrl_alita::unroll_gru", mutates_args=())
def _unroll(
    inputs: torch.Tensor,
    begins: torch.Tensor,
    state: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """States, and for the gradient the gates r, z, n and W^n h + b^n, ``[T, M, R, 4H]``."""
    size = state.shape[-1]
    transposed, bias = weight.mT, bias.unsqueeze(1)
    states, gates = [], []
    for step, begin in zip(inputs, begins, strict=True):
        state = torch.where(begin, 0.0, state)
        of_state = torch.baddbmm(bias, state, transposed)
        both = torch.sigmoid(step[..., : 2 * size] + of_state[..., : 2 * size])
        reset, update = both.chunk(2, -1)
        of_new = of_state[..., 2 * size :]
        new = torch.tanh(torch.addcmul(step[..., 2 * size :], reset, of_new))
        state = torch.lerp(new, state, update)
        states.append(state)
        gates.append(torch.cat([both, new, of_new], -1))
    return torch.stack(states), torch.stack(gates)


@_unroll.register_fake
def _(inputs, begins, state, weight, bias):
    states = inputs.new_empty((*inputs.shape[:-1], state.shape[-1]))
    return states, inputs.new_empty((*inputs.shape[:-1], 4 * state.shape[-1]))


@torch.library.custom_op("torchrl_alita::unroll_gru_backward", mutates_args=())
def _backward(
    grad: torch.Tensor,
    states: torch.Tensor,
    gates: torch.Tensor,
    begins: torch.Tensor,
    state: torch.Tensor,
    weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the inputs, the first state, the weight and the bias."""
    num_steps, num_networks, num_rows, size = states.shape
    reset, update, new, of_new = gates.chunk(4, -1)
    before = torch.where(begins, 0.0, torch.cat([state.unsqueeze(0), states[:-1]]))
    # Each gate's share of a state's gradient is known before that is.
    of_inputs = (1 - update) * (1 - new.square())
    shares = torch.stack(
        [
            of_inputs * of_new * reset * (1 - reset),
            (before - new) * update * (1 - update),
            of_inputs * reset,
        ],
        -2,
    )
    later = torch.zeros_like(state)
    of_states, of_gates = [], []
    for step in reversed(range(num_steps)):
        later = later + grad[step]
        of_states.append(later)
        of_gates.append((later.unsqueeze(-2) * shares[step]).flatten(-2))
        later = torch.baddbmm(later * update[step], of_gates[-1], weight)
        later = torch.where(begins[step], 0.0, later)
    of_gates = torch.stack(of_gates[::-1])
    of_new_inputs = torch.stack(of_states[::-1]) * of_inputs
    # [T, M, R, .] -> [M, T * R, .]
    rows = (num_networks, num_steps * num_rows)
    gates_by_network = of_gates.transpose(0, 1).reshape(*rows, 3 * size)
    of_weight = gates_by_network.mT @ before.transpose(0, 1).reshape(*rows, size)
    of_bias = gates_by_network.sum(1)
    return torch.cat([of_gates[..., : 2 * size], of_new_inputs], -1), later, of_weight, of_bias


@_backward.register_fake
def _(grad, states, gates, begins, state, weight):
    num_networks, size = weight.shape[0], state.shape[-1]
    return (
        states.new_empty((*states.shape[:-1], 3 * size)),
        torch.empty_like(state),
        torch.empty_like(weight),
        weight.new_empty((num_networks, 3 * size)),
    )


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, begins, state, weight, _ = inputs
    ctx.save_for_backward(*output, begins, state, weight)
    ctx.mark_non_differentiable(output[1])
    # Or zeros would be made for the gates.
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: torch.Tensor | None, _: None) -> tuple:
    if grad is None:
        return (None,) * 5
    of_inputs, of_state, of_weight, of_bias = _backward(grad, *ctx.saved_tensors)
    return of_inputs, None, of_state, of_weight, of_bias


_unroll.register_autograd(_gradients, setup_context=_remember)
