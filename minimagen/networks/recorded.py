"""Passes of a network as CUDA graphs: recorded once, then replayed in every step of training.

The kernels of a small network end sooner than the host can launch the next ones; a graph launches
all of them at once. They are the same kernels, so the numbers stay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

WARM_UPS = 3  # passes in which libraries choose their kernels and take their memory


class RecordedPasses:
    """Calls ``network``; where gradients are wanted, through one recording for each set of shapes.

    A pass overwrites the gradients of the one before: set them to None first. So gradients cannot
    be accumulated over micro-batches. Where a second pass begins before the first one's gradients
    were asked for, it runs without a recording.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._passes: dict[Any, _Pass] = {}

    def __call__(self, *inputs: Any) -> Tensor:
        """Return the network's output for tensors, and for containers of tensors."""
        if not torch.is_grad_enabled():
            return self.network(*inputs)
        tensors, structure = tree_flatten(inputs)
        key = str(structure), tuple((x.shape, x.dtype, x.requires_grad) for x in tensors)
        if key not in self._passes or self._passes[key].moved:
            self._passes[key] = _Pass(self.network, tensors, structure)
        recorded = self._passes[key]
        if recorded.pending:
            return self.network(*inputs)
        return _Replay.apply(recorded, *tensors, *recorded.parameters)


class _Pass:
    """One forward and backward pass.

    Attributes:
        parameters: What is trained, of the network.
        pending: Whether its gradients are not asked for yet.
    """

    def __init__(self, network: nn.Module, tensors: Sequence[Tensor], structure: TreeSpec) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.pending = False
        self._inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in tensors]
        self._all = [*self._inputs, *self.parameters]
        self._places = [p.data_ptr() for p in self.parameters]
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        kind, device = "cuda", tensors[0].device
        own_autocast = torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            torch.is_autocast_enabled(kind),
            cache_enabled=False,  # a weight that was rounded before would stay as it is now
        )
        # Numbers that recording draws are given back: a resumed run records again.
        with torch.random.fork_rng([device]), own_autocast:
            self._record(lambda: network(*tree_unflatten(self._inputs, structure)))

    def _record(self, call: Callable[[], Tensor]) -> None:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                output = call()
                self._gradients(output, torch.zeros_like(output))
        torch.cuda.current_stream().wait_stream(beside)
        # Other threads go on copying to the GPU meanwhile: only what this one does is watched.
        with torch.cuda.graph(self._forward, capture_error_mode="thread_local"):
            self._output = call()
        self._output_gradient, pool = torch.zeros_like(self._output), self._forward.pool()
        with torch.cuda.graph(self._backward, pool, capture_error_mode="thread_local"):
            self._found = self._gradients(self._output, self._output_gradient)

    def _gradients(self, output: Tensor, gradient: Tensor) -> list[Tensor | None]:
        """Return the gradients of all inputs and parameters; None for what has none."""
        wanted = [x for x in self._all if x.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, gradient, allow_unused=True))
        return [next(found) if x.requires_grad else None for x in self._all]

    @property
    def moved(self) -> bool:
        """Return whether the parameters lie elsewhere than when they were recorded."""
        return self._places != [p.data_ptr() for p in self.parameters]

    @torch.no_grad()
    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the output; the next pass overwrites it."""
        for own, given in zip(self._inputs, tensors, strict=False):
            own.copy_(given)
        self._forward.replay()
        self.pending = True
        return self._output.detach()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Return the gradients of all inputs and parameters; the next pass overwrites them."""
        self._output_gradient.copy_(gradient)
        self._backward.replay()
        self.pending = False
        return [None if each is None else each.detach() for each in self._found]


class _Replay(torch.autograd.Function):
    """The pass as one operation, with the parameters among its inputs."""

    @staticmethod
    def forward(ctx: Any, recorded: _Pass, *tensors: Tensor) -> Tensor:
        """Replay the forward pass."""
        ctx.recorded = recorded
        return recorded.forward(tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Replay the backward pass."""
        return None, *ctx.recorded.backward(gradient)
