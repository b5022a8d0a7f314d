"""Muon: a matrix's step is its momentum made orthogonal (Jordan et al. 2024; arXiv 2502.16982)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from minimagen.training.processes.alone import Processes

# Odd quintics, each the best on the interval where the one before leaves the singular values, for
# values from 0.01 to 1 (as in Polar Express, arXiv 2505.16932): they end in [0.73, 1.27]. Three
# teach as well as Jordan's five equal ones, and cost half.
NEWTON_SCHULZ = (
    (8.0934, -23.6206, 17.4463),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices [k m n] with their singular vectors and singular values near 1.

    The iteration X <- (a I + b X X' + c (X X')^2) X, begun at X / |X|. All of its factors are
    polynomials of the one small matrix X X', so they are multiplied together first and meet X
    last: two products with the long side instead of six. |X|^2 is the trace of X X'. In bfloat16
    the result differs by one to three percent, less than the singular values from 1.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    gram = torch.bmm(x, x.mT)
    squared_norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + 1e-14
    gram /= squared_norm
    factors: list[Tensor] = []
    for a, b, c in NEWTON_SCHULZ:
        if factors:
            gram = torch.bmm(factors[-1], torch.bmm(gram, factors[-1]))
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        factors.append(factor)
    x = torch.bmm(reduce(torch.bmm, factors) / squared_norm.sqrt(), x)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for weight matrices; kernels [o i h w] count as [o (h w i)].

    The step has the root mean square 0.2 ``lr`` whatever the matrix's shape, which is about that
    of AdamW: one learning rate serves both. Under autocast the matrices are made orthogonal in its
    dtype. (``torch.optim.Muon`` refuses kernels, and iterates on the long side.)

    Args:
        matrices: Parameters of two or more dimensions.
        lr: Learning rate.
        momentum: Decay of the gradient's average.
        weight_decay: Decoupled, times ``lr``.
        processes: Those that divide the work; each must make every step.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        processes: Processes | None = None,
    ) -> None:
        self._processes = processes or Processes()
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # none is used
        """Make one step; matrices of one shape are made orthogonal in one batch."""
        for group in self.param_groups:
            of_one_shape = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    of_one_shape[p.shape].append(p)
            flat = []
            for parameters in of_one_shape.values():
                momenta = self._momenta(parameters, group["momentum"])
                flat.append(torch.stack([_as_matrix(m) for m in momenta]))
            all_steps = self._processes.spread(orthogonalize, flat)
            for parameters, steps in zip(of_one_shape.values(), all_steps, strict=True):
                size = 0.2 * max(steps.shape[1:]) ** 0.5
                steps = steps.unflatten(2, _last_in_channels(parameters[0]).shape[1:])
                for p, step in zip(parameters, steps, strict=True):
                    if group["weight_decay"]:
                        p.mul_(1.0 - group["lr"] * group["weight_decay"])
                    step = step.movedim(-1, 1) if step.ndim > 2 else step
                    p.add_(step, alpha=-group["lr"] * size)

    def _momenta(self, parameters: list[nn.Parameter], decay: float) -> Sequence[Tensor]:
        """Return Nesterov's estimates of the averaged gradients."""
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        averages = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(averages, gradients, 1.0 - decay)
        return torch._foreach_lerp(gradients, averages, decay)


def _as_matrix(momentum: Tensor) -> Tensor:
    """Return a kernel as a matrix, in the dtype of the autocast around, if there is one."""
    kind, matrix = momentum.device.type, _last_in_channels(momentum).flatten(1)
    return matrix.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else matrix


def _last_in_channels(kernel: Tensor) -> Tensor:
    """Return [o i h w] as [o h w i], which channels_last memory gives without a copy."""
    return kernel.movedim(1, -1) if kernel.ndim > 2 else kernel
