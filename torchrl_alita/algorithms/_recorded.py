"""A whole update as one compiled graph: losses, gradients, optimizers and targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from torchrl_alita.algorithms._compiled import warn_not_compiled

Tensors = list[torch.Tensor]


class Recorded:
    """A function of batches that changes tensors in place, recorded once and compiled.

    The first call writes down every operation, those of the backward pass, the optimizers and the
    target updates too, and compiles them as one graph; later calls run it. What Python does
    between the operations, and autograd's engine, take as long as the products of small networks
    do on a CPU. Both give the same up to rounding, with the same random numbers.

    As with a CUDA graph, what is no tensor is a constant of the graph, and a tensor must stay where
    it is: a function must change it in place. A batch of another form than the first one is given
    to the function itself. So is every batch where recording fails, with one warning.

    Args:
        function: of batches, to a TensorDict of what it found.
        modules: whose parameters and buffers it may change. What it makes there itself, at its
            first call, must be constant.
        optimizers: whose state it may change, which begins with zeros.
    """

    def __init__(
        self,
        function: Callable[..., TensorDictBase],
        modules: Iterable[nn.Module],
        optimizers: Iterable[torch.optim.Optimizer] = (),
    ):
        self.function = function
        self.modules, self.optimizers = list(modules), list(optimizers)
        self.graph: Callable[..., dict[str, torch.Tensor]] | None = None
        self.failed = False
        self._form: Any = None

    def __call__(self, *batches: TensorDictBase) -> TensorDictBase:
        form = [_form(batch) for batch in batches]
        if self.failed or form != (self._form or form):
            return self.function(*batches)
        # In the order of the recorded batches, which need not be that of these.
        pairs = zip(batches, self._form or form, strict=True)
        values = [batch.get(name) for batch, names in pairs for name in names]
        try:
            if self.graph is None:
                self.graph, self._form = self._record(batches, values), form
            with torch.no_grad():
                return TensorDict(self.graph(*values))
        except Exception as error:
            # What is wrong with the batches is no fault of the compiler. Nothing has been changed.
            result = self.function(*batches)
            self.failed = True
            warn_not_compiled(error)
            return result

    def _record(
        self, batches: Sequence[TensorDictBase], values: Tensors
    ) -> Callable[..., dict[str, torch.Tensor]]:
        """The compiled graph of a call."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                # What changes while it learns must be a tensor, and of a float's precision.
                if not isinstance(group["lr"], torch.Tensor):
                    group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
        keys = [list(_entries(batch)) for batch in batches]
        sizes = [batch.batch_size for batch in batches]

        def on_tensors(*values: torch.Tensor) -> dict[str, torch.Tensor]:
            rest = iter(values)
            rebuilt = []
            for names, size in zip(keys, sizes, strict=True):
                batch = TensorDict(batch_size=size)
                for name in names:
                    batch.set(name, next(rest))
                rebuilt.append(batch)
            return {str(name): value for name, value in self.function(*rebuilt).items()}

        # The inner functions are compiled by themselves where they are not part of a graph.
        with torch.compiler.set_stance("force_eager"):
            # What optimizers and statistics keep is made by a first call.
            with self._undone():
                on_tensors(*values)
            with self._undone(), _as_compiled(), warnings.catch_warnings():
                # TensorDict's, on what it does not check of a compiled function.
                warnings.filterwarnings("ignore", message="Using lock_")
                module = make_fx(on_tensors, decomposition_table=_DECOMPOSITIONS)(*values)
        return _compile(module)

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Set everything back that is changed, the random state too."""
        kept = [(tensor, tensor.detach().clone()) for tensor in (*self._owned(), *self._states())]
        there = {id(tensor) for tensor, _ in kept}
        with torch.random.fork_rng(devices=[]):
            try:
                yield
            finally:
                with torch.no_grad():
                    for tensor, before in kept:
                        tensor.copy_(before)
                    for tensor in self._states():
                        if id(tensor) not in there:
                            tensor.zero_()

    def _owned(self) -> Iterator[torch.Tensor]:
        for module in self.modules:
            yield from module.parameters()
            yield from module.buffers()

    def _states(self) -> Iterator[torch.Tensor]:
        for optimizer in self.optimizers:
            for state in optimizer.state.values():
                yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def _form(batch: TensorDictBase) -> dict[Any, tuple]:
    return {key: (value.shape, value.dtype, value.device) for key, value in _entries(batch).items()}


def _entries(batch: TensorDictBase) -> dict[Any, torch.Tensor]:
    return dict(batch.items(True, True))


@contextmanager
def _as_compiled() -> Iterator[None]:
    """Let TorchRL leave out checks that read a value back, as where torch.compile traces."""
    before = torch.compiler._is_compiling_flag
    # As torch.export does, which traces in the same way.
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def _compile(module: fx.GraphModule) -> Callable[..., dict[str, torch.Tensor]]:
    for node in reversed(module.graph.nodes):
        if "profiler" in str(node.target):
            module.graph.erase_node(node)
        # The gradient is part of the graph: parameters are tensors that it changes.
        elif node.op == "get_attr" and isinstance(
            parameter := getattr(module, node.target), nn.Parameter
        ):
            delattr(module, node.target)
            module.register_buffer(node.target, parameter.detach(), persistent=False)
    module.recompile()
    options: dict[str, Any] = {"fallback_random": True}
    if (skip_guards := getattr(torch.compiler, "skip_all_guards_unsafe", None)) is not None:
        # Everything is fixed but the batches, whose form is compared above.
        options["guard_filter_fn"] = skip_guards
    return torch.compile(module, fullgraph=True, dynamic=False, options=options)


def _adam(
    params: Tensors,
    grads: Tensors,
    means: Tensors,
    squares: Tensors,
    largest: Tensors,
    steps: Tensors,
    *,
    lr: float | torch.Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    grad_scale: torch.Tensor | None = None,
    found_inf: torch.Tensor | None = None,
) -> None:
    """The operations of Adam's fused kernel, which the compiler cannot read."""
    if weight_decay or amsgrad or maximize:
        raise ValueError("Of Adam's options only the step sizes are recorded.")
    for param, grad, mean, square, step in zip(params, grads, means, squares, steps, strict=True):
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # In single precision the first steps' differences from 1 would lose digits.
        count = step.double()
        scale = (1 - beta2**count).sqrt()
        param.sub_(lr / (1 - beta1**count) * mean / (square.sqrt() / scale + eps))


_DECOMPOSITIONS = {torch.ops.aten._fused_adam_.tensor_lr: _adam}
