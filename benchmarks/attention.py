"""How long does attention take in training on this CPU: bfloat16's own kernels, ours, float32's?

    python -m benchmarks.attention

Forward and backward, on shapes of the demo's networks and of the GPT; the three take turns, and
medians are reported. Ours (``minimagen/networks/dot_product.py``) is given bfloat16.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import Case, Row, answer, build_parser, run_cases
from minimagen.networks.dot_product import attend

SHAPES = {  # batch, heads, queries, keys
    "8 x 8 pixels, text": (32, 4, 64, 80),
    "4 x 4 pixels, text": (32, 4, 16, 32),
    "64 tokens behind text": (64, 4, 80, 80),
}
HEAD_DIM = 32
RUNS, QUICK_RUNS = 30, 2
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
SIDES: dict[str, tuple[Attend, torch.dtype]] = {
    "bfloat16": (F.scaled_dot_product_attention, torch.bfloat16),
    "ours": (attend, torch.bfloat16),
    "float32": (F.scaled_dot_product_attention, torch.float32),
}


def measure(case: Case, started: float) -> Row:
    """Time the three sides in turn."""
    del started
    batch, heads, queries, keys = case["shape"]
    mask = torch.rand(batch, 1, 1, keys) < 0.8
    mask[..., 0] = True
    sides: dict[str, tuple[Attend, list[Tensor]]] = {}
    for name, (function, precision) in SIDES.items():
        inputs = [torch.randn(batch, heads, n, HEAD_DIM) for n in (queries, keys, keys)]
        sides[name] = function, [x.to(precision).requires_grad_() for x in inputs]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(case["runs"] + 1):
        for name, (function, (q, k, v)) in sides.items():
            begun = time.perf_counter()
            function(q, k, v, mask).sum().backward()
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return {"milliseconds": {name: 1e3 * value for name, value in medians.items()}}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    arguments = build_parser(__doc__).parse_args(argv)
    if answer(arguments, measure):
        return []
    runs = QUICK_RUNS if arguments.quick else RUNS
    cases = [{"what": what, "shape": shape, "runs": runs} for what, shape in SHAPES.items()]
    return run_cases("benchmarks.attention", cases, measure, arguments)


if __name__ == "__main__":
    main()
