"""Sampling with a pretrained model, beside the pipeline of diffusers: seconds and memory.

    python -m benchmarks.pretrained
    python -m benchmarks.pretrained --sizes     parameters and bytes of the real U-Nets

A random model in Stable Diffusion's format, equal steps of DDIM with guidance, float32. Speed: both
sides in one process, one after the other, ``--runs`` pairs; text is encoded each time. Memory: each
side in its own process, from before the model is loaded.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import (
    Case,
    PeakMemory,
    Row,
    answer,
    build_parser,
    run_cases,
    spread,
    synchronize,
)
from benchmarks.pretrained_models import SD1, write_sd
from minimagen import Imagen
from minimagen.config import DiffusersUNetConfig
from minimagen.device import resolve_device
from minimagen.networks.cost import TRAINING_COPIES
from minimagen.networks.diffusers import build_unet
from minimagen.networks.unet import count_parameters

Sample = Callable[[], object]
CAPTIONS = ["a large red star", "the blue dog on a sea of red cats"]
GUIDANCE = 7.5
UNETS: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "Stable Diffusion 2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
}
"""What differs from the defaults of diffusers."""


def ours(folder: Path, case: Case) -> Sample:
    """Return a function that samples with this project."""
    imagen = Imagen.from_pretrained(folder).to(resolve_device())
    samplings = imagen.samplings(sampler="ddim", timesteps=case["steps"], guidance_scale=GUIDANCE)
    return lambda: next(imagen.sample_batches(CAPTIONS, samplings, [1, 2], precision="fp32"))


def theirs(folder: Path, case: Case) -> Sample:
    """Return a function that samples with diffusers' pipeline."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    loader: Any = StableDiffusionPipeline
    pipeline = loader.from_pretrained(folder).to(resolve_device())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    asked = {"num_inference_steps": case["steps"], "guidance_scale": GUIDANCE}
    return lambda: pipeline(CAPTIONS, output_type="pt", **asked)


SIDES = {"ours": ours, "diffusers": theirs}


def measure(case: Case, started: float) -> Row:
    """Write the model and measure one case."""
    del started
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        model = write_sd(
            Path(place) / "sd", SD1, side=case["side"], channels=tuple(case["channels"])
        )
        return _memory(case, model) if case["what"] == "memory" else _speed(case, model)


def _speed(case: Case, model: Path) -> Row:
    """Return seconds of both sides and the ratio of each pair, ours over diffusers'."""
    sides = {name: side(model, case) for name, side in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(case["runs"] + 1):  # the first pair allocates
        for name in list(sides) if i % 2 else list(sides)[::-1]:
            started = time.perf_counter()
            sides[name]()
            synchronize(resolve_device())
            seconds[name].append(time.perf_counter() - started)
    taken = {name: each[1:] for name, each in seconds.items()}
    ratios = [a / b for a, b in zip(taken["ours"], taken["diffusers"], strict=True)]
    return {f"{name}_seconds": spread(each) for name, each in taken.items()} | {
        "ratio": spread(ratios),
        "images": len(CAPTIONS),
    }


def _memory(case: Case, model: Path) -> Row:
    """Return the peak of one side while it loads the model and samples."""
    with PeakMemory(resolve_device()) as peak:
        sample = SIDES[case["side_of"]](model, case)
        for _ in range(2):
            sample()
    return peak.row()


def sizes() -> list[str]:
    """Return a line on each known U-Net, from its configuration alone."""
    lines = []
    for name, changes in UNETS.items():
        with torch.device("meta"):
            count = count_parameters(build_unet(DiffusersUNetConfig(**changes), None))
        fp32, half = (count * size / 2**30 for size in (4, 2))
        trained = fp32 * TRAINING_COPIES
        lines.append(
            f"{name}: {count / 1e6:.1f} M parameters, {fp32:.2f} GiB in fp32, {half:.2f} GiB in "
            f"bf16; to train {trained:.1f} GiB and activations"
        )
    return lines


def cases(quick: bool, runs: int) -> Iterator[Case]:
    """Yield what is measured."""
    for side, channels in [(8, (16, 32))] if quick else [(16, (16, 32)), (32, (64, 128))]:
        common = {"steps": 2 if quick else 20, "side": side, "channels": list(channels)}
        yield {"what": "speed", "runs": 2 if quick else runs, **common}
        for name in SIDES:
            yield {"what": "memory", "side_of": name, **common}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and print."""
    parser = build_parser(__doc__)
    parser.add_argument("--runs", type=int, default=15, help="pairs [15]")
    parser.add_argument("--sizes", action="store_true", help="print the sizes of real U-Nets")
    arguments = parser.parse_args(argv)
    if arguments.sizes:
        print("\n".join(sizes()))
        return []
    if answer(arguments, measure):
        return []
    torch.manual_seed(0)
    rows = run_cases(
        "benchmarks.pretrained", cases(arguments.quick, arguments.runs), measure, arguments
    )
    for row in rows:
        if row["case"]["what"] == "speed":
            pair = [row[f"{name}_seconds"]["median"] for name in SIDES]
            print(
                f"side {row['case']['side']}: {pair[0]:.3f} s, diffusers {pair[1]:.3f} s; ratio "
                f"{row['ratio']['median']:.3f} {row['ratio']['quartiles']}"
            )
    return rows


if __name__ == "__main__":
    main()
