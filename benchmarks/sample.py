"""Cost and quality of an image, by sampler and number of steps.

    python -m benchmarks.sample -d training_20261121_120000
    python -m benchmarks.sample -d training_distilled      # after its teacher

For every stage, sampler and number of steps: seconds, network calls (one call = one forward of one
example; a guided step is two) and memory per image, the share of captions that are fully correct
(every attribute), and KID on the judge's penultimate features against as many new real renders.
The stages before the varied one keep their own settings; those after it are not run, so a stage is
judged at its own size. The last setting of each stage is its reference, 250 steps of ddpm; the
report compares every setting with it, caption by caption. A distilled stage has only its own
setting, and is compared with its teacher's reference.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.measuring import (
    Case,
    PeakMemory,
    Row,
    answer,
    build_parser,
    fingerprint,
    mean_sd,
    numbers,
    run_cases,
)
from minimagen import Imagen, Judge, ShapesDataset
from minimagen.config import SamplerName, SamplingConfig
from minimagen.data.loading.reading import stack_images
from minimagen.device import resolve_device
from minimagen.evaluation.judge import score
from minimagen.evaluation.metrics import kid
from minimagen.images import resize_clamped, to_model_space, to_uint8
from minimagen.networks.unet import UNet
from minimagen.sample import Sample
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.training.distillation import kept_teacher

STEPS = {0: (4, 8, 12, 16, 20, 50), 1: (1, 2, 4, 8, 16)}  # of the first stage, of the others
REFERENCE = ("ddpm", 250)
GENERATED_SEED, REAL_SEED = 1, 2  # of the captions, of the renders that KID compares with
GROUPS = 10  # equal parts, whose spread gives the error of KID


class CallCounter:
    """Counts the examples that go through each stage's network inside a ``with``."""

    def __init__(self, imagen: Imagen) -> None:
        self.calls = [0] * len(imagen.stages)
        self._networks = [module for module in imagen.modules() if isinstance(module, UNet)]
        self._hooks = ExitStack()

    def __enter__(self) -> "CallCounter":
        for i, network in enumerate(self._networks):
            handle = network.register_forward_pre_hook(self._counter(i))
            self._hooks.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _counter(self, i: int) -> Any:
        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.calls[i] += len(inputs[0])

        return count


def measure(case: Case, started: float) -> Row:
    """Sample and judge with one setting."""
    device, stage = resolve_device(), case["stage"]
    imagen = Imagen.from_directory(case["directory"]).to(device)
    own = SamplingConfig.read(case["sampling"], "case")
    samplings = [*imagen.samplings()[:stage], own]
    samples = _captions(imagen, case["split"], case["n"], GENERATED_SEED)
    captions = [sample.caption for sample in samples]
    options: dict[str, Any] = {"batch_size": case["batch"]}
    first = captions[: case["batch"]]  # not timed: allocators, kernels, libraries
    imagen.sample_stages(first, samplings, seeds=range(len(first)), **options)
    with PeakMemory(device) as memory, CallCounter(imagen) as counter:
        begun = time.perf_counter()
        by_stage = imagen.sample_stages(captions, samplings, seeds=range(len(captions)), **options)
        seconds = time.perf_counter() - begun
    row: Row = {
        "seconds_per_image": seconds / len(captions),
        "calls_per_image": sum(counter.calls) / len(captions),
        "calls_by_stage": [calls / len(captions) for calls in counter.calls],
    }
    return row | memory.row() | _quality(imagen, by_stage[-1], samples, case)


def _quality(
    imagen: Imagen, pil_images: Sequence[Image.Image], samples: Sequence[Sample], case: Case
) -> Row:
    judge, size = Judge.load(), imagen.config.image_sizes[case["stage"]]
    images = torch.from_numpy(np.stack([np.asarray(p) for p in pil_images])).permute(0, 3, 1, 2)
    verdicts, truth = judge(images), [sample.attributes for sample in samples]
    real = stack_images(_captions(imagen, case["split"], case["n"], REAL_SEED))
    real = to_uint8(resize_clamped(to_model_space(real), size))
    a, b = judge.features(images), judge.features(real)
    scale = b.square().mean().sqrt()  # the kernel (x . y / d + 1)^3 expects numbers around 1
    a, b = a / scale, b / scale
    parts = [kid(x, y) for x, y in zip(a.chunk(GROUPS), b.chunk(GROUPS), strict=True)]
    right = [score(_row(verdicts, i), [truth[i]])["all"] for i in range(len(truth))]
    return {
        "accuracy": score(verdicts, truth),
        "fully_correct": sum(right) / len(right),
        "right": "".join(str(int(r)) for r in right),
        "kid": kid(a, b),
        "kid_standard_error": mean_sd(parts)[1] / len(parts) ** 0.5,
    }


def _row(verdicts: dict[str, list[str]], i: int) -> dict[str, list[str]]:
    return {name: [values[i]] for name, values in verdicts.items()}


def _captions(imagen: Imagen, split: str, count: int, seed: int) -> list[Sample]:
    size = imagen.config.image_sizes[-1][0]
    return list(ShapesDataset(split, size=size, seed=seed, epoch_size=count))


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield every setting of every stage, its reference last."""
    directory = TrainingDirectory.open(arguments.directory)
    imagen = read_parameters(directory.parameters).imagen
    taught = kept_teacher(directory)
    for i, stage in enumerate(imagen.stages):
        if arguments.stage not in (None, i) or (taught and stage.distilled_steps is None):
            continue  # a stage that is not distilled equals its teacher's
        reference = (REFERENCE[0], arguments.reference)
        settings = [
            (name, n) for n in arguments.steps or STEPS[min(i, 1)] for name in get_args(SamplerName)
        ]
        settings += [reference]
        if stage.distilled_steps is not None:
            settings = [(stage.sampling.sampler, stage.sampling.timesteps)]
        for sampler, n in settings:
            sampling = stage.sampling.replace(sampler=sampler, timesteps=n)
            yield {
                "what": "distilled" if taught else "trained",
                "directory": str(directory),
                "settings": fingerprint(imagen),
                "weights": _weights(directory, i),
                "compared_with": _weights(taught or directory, i),
                "stage": i,
                "sampling": sampling.model_dump(mode="json"),
                "reference": (sampler, n) == reference,
                "split": arguments.split,
                "n": arguments.count,
                "batch": arguments.batch_size,
            }


def _weights(directory: TrainingDirectory, stage: int) -> list[int]:
    """Return when the weights up to ``stage`` were written; a copied teacher keeps these times."""
    return [directory.weights(f"unet_{i}").stat().st_mtime_ns for i in range(stage + 1)]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("-d", "--directory", type=Path, help="trained on the embedded data")
    parser.add_argument("--split", choices=("tune", "heldout"), default="tune")
    parser.add_argument("--count", type=int, help="images per setting [1000; quick 20]")
    parser.add_argument("--steps", type=numbers, help="instead of 4 ... 50 and 1 ... 16")
    parser.add_argument("--stage", type=int, help="vary this stage alone")
    parser.add_argument("--reference", type=int, help="steps of the ddpm reference [250; quick 4]")
    parser.add_argument("--batch-size", type=int, default=50, help="[50]")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    if arguments.directory is None:
        parser.error("give a training directory with -d")
    arguments.count = arguments.count or (20 if arguments.quick else 1000)
    arguments.reference = arguments.reference or (4 if arguments.quick else REFERENCE[1])
    if arguments.quick and not arguments.steps:
        arguments.steps = [2]
    return run_cases("benchmarks.sample", cases(arguments), measure, arguments)


if __name__ == "__main__":
    main()
