"""Muon: a matrix's step is its momentum made orthogonal (Jordan et al. 2024; arXiv 2502.16982)."""

from collections import defaultdict
from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor, nn

from minimagen.training.processes import Processes

# Odd quintics, each the best on the interval where the one before leaves the singular values, for
# values from 0.01 to 1 (as in Polar Express, arXiv 2505.16932): they end in [0.73, 1.27]. Three
# teach as well as Jordan's five equal ones, and cost half.
NEWTON_SCHULZ = (
    (8.0934, -23.6206, 17.4463),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)


def newton_schulz(gram: Tensor) -> Tensor:
    """Return the factors [k m m] that make matrices X orthogonal, from their X X' [k m m].

    The factor times X has X's singular vectors and singular values near 1. It is the iteration
    X <- (a I + b X X' + c (X X')^2) X, begun at X / |X|: X is only ever multiplied by polynomials
    of X X', and these can be multiplied together first. |X|^2 is the trace of X X'.
    """
    squared_norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + 1e-14
    gram = gram / squared_norm
    factors: list[Tensor] = []
    for a, b, c in NEWTON_SCHULZ:
        if factors:
            gram = factors[-1] @ (gram @ factors[-1])
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        factors.append(factor)
    return reduce(torch.matmul, factors) / squared_norm.sqrt()


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for weight matrices; kernels [o i h w] count as [o (i h w)].

    The step has the root mean square 0.2 ``lr`` whatever the matrix's shape, which is about that
    of AdamW: one learning rate serves both. (``torch.optim.Muon`` refuses kernels, and iterates in
    bf16 on the long side.) Gradients are changed on the way.

    Args:
        matrices: Parameters of two or more dimensions, contiguous or channels_last.
        lr: Learning rate.
        momentum: Decay of the gradient's average.
        weight_decay: Decoupled, times ``lr``.
        processes: Those that share out the work; each must make every step.
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
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step; factors of one size are computed in one batch."""
        for group in self.param_groups:
            of_one_size = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    if group["weight_decay"]:
                        p.mul_(1.0 - group["lr"] * group["weight_decay"])
                    weight = _columns_as_in_memory(p, p).view(len(p), -1)
                    gradient = self._averaged_gradient(p, group["momentum"])
                    gradient = _columns_as_in_memory(gradient, p).flatten(1)
                    of_one_size[min(weight.shape)].append((weight, gradient))
            grams = [torch.stack([_gram(g) for _, g in same]) for same in of_one_size.values()]
            factors = self._processes.spread(newton_schulz, grams)
            for same, of_same in zip(of_one_size.values(), factors, strict=True):
                for (weight, gradient), factor in zip(same, of_same, strict=True):
                    rows, columns = weight.shape
                    pair = (gradient, factor) if rows > columns else (factor, gradient)
                    size = 0.2 * max(rows, columns) ** 0.5
                    weight.addmm_(*pair, alpha=-group["lr"] * size)

    def _averaged_gradient(self, parameter: Tensor, decay: float) -> Tensor:
        """Return Nesterov's estimate of the averaged gradient, in the gradient's place."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(gradient, 1.0 - decay)
        return gradient.lerp_(average, decay)


def _gram(matrix: Tensor) -> Tensor:
    """Return the products of all rows, or of all columns where these are fewer."""
    rows, columns = matrix.shape
    return matrix.mT @ matrix if rows > columns else matrix @ matrix.mT


def _columns_as_in_memory(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a kernel [o i h w] as [o h w i] if the parameter is channels_last: no copies then.

    The order of the columns changes nothing but their place.
    """
    return tensor if parameter.is_contiguous() else tensor.movedim(1, -1)
