"""How do a training step's time and memory grow? Four sizes each, with the fitted exponent.

    python -m benchmarks.growth

Against pixels (of an image), parameters (of the first stage, by width), text length (tokens) and
the number of stages. Every point is the first stage of ``parameters/`` with that one thing changed,
in its own process. Time, and memory beyond that in use before, are fitted by c x^k, least squares
of the logarithms. Fixed costs make k smaller than the true exponent, so only k well above 1 shows
superlinear growth. For stages, one step of every stage is timed and divided by the mean number of
pixels of a stage: the sizes of a cascade must grow, and the first measurement covers that growth.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.measuring import (
    ROOT,
    Case,
    PeakMemory,
    Row,
    answer,
    build_parser,
    fingerprint,
    run_cases,
    spread,
    time_steps,
)
from minimagen import Imagen
from minimagen.config import DiffusionConfig, ImagenConfig
from minimagen.device import resolve_device
from minimagen.draws import generator
from minimagen.images import Batch
from minimagen.networks.unet import count_parameters
from minimagen.storage.directory import read_parameters
from minimagen.training.trainer import Trainer

SIZES = {
    "pixels": (32, 64, 96, 128),  # side, px
    "parameters": (64, 128, 192, 256),  # channels of the first level
    "text length": (16, 64, 256, 1024),  # tokens
    "stages": (1, 2, 3, 4),
}
QUICK_SIZES = {
    "pixels": (16, 32),
    "parameters": (16, 32),
    "text length": (4, 8),
    "stages": (1, 2),
}
STAGE_SIDES = (64, 72, 80, 88)  # of the cascade whose stages are counted, px


def cascade_for(case: Case) -> ImagenConfig:
    """Return the cascade of a case: the preset's first stage with one thing changed."""
    imagen = read_parameters(Path(case["cascade"])).imagen
    base, side, what, value = imagen.stages[0], case["side"], case["against"], case["value"]
    assert isinstance(base, DiffusionConfig)
    if what == "parameters":
        base = base.replace(unet=base.unet.replace(dim=value).model_dump())
    if what == "stages":
        later = [imagen.stages[1]] * (value - 1)
        return imagen.replace(image_sizes=STAGE_SIDES[:value], stages=[base, *later])
    side = value if what == "pixels" else side
    return imagen.replace(image_sizes=[side], stages=[base])


def measure(case: Case, started: float) -> Row:
    """Time one step of every stage of the case's cascade."""
    device = resolve_device()
    config = cascade_for(case)
    training = read_parameters(Path(case["cascade"])).training
    tokens = case["value"] if case["against"] == "text length" else case["tokens"]
    _load_what_a_step_needs(device)
    with PeakMemory(device) as memory:
        imagen = Imagen(config).to(device)
        batch = _batch(config, imagen.text_encoder.embed_dim, tokens, case["batch"])
        settings = training.learners[0]
        trainers = [Trainer(s, i, settings, 10**6) for i, s in enumerate(imagen.stages)]
        batches = [batch.at(s.image_sizes, config.image_sizes[-1]) for s in imagen.stages]
        timed = [
            time_steps(partial(t.train_step, own), case["repeats"], case["warmup"], device)
            for t, own in zip(trainers, batches, strict=True)
        ]
    seconds = sum(spread(times)["median"] for times in timed)
    pixels = [height * width for height, width in config.image_sizes]
    per_stage = sum(pixels) / len(pixels)
    return {
        "x": _x(case, imagen, per_stage),
        "step_seconds": seconds,
        "spread": [spread(times) for times in timed],
        "parameters": sum(count_parameters(stage) for stage in imagen.stages),
        "pixels_per_stage": per_stage,
        "used_bytes": memory.peak - memory.before,
    } | memory.row()


def _load_what_a_step_needs(device: torch.device) -> None:
    """Make one tiny step, so that libraries that the first one loads do not count as growth."""
    config, training, _ = read_parameters(ROOT / "parameters" / "testing")
    imagen = Imagen(_cut(config)).to(device)
    batch = _batch(_cut(config), imagen.text_encoder.embed_dim, 4, 2)
    Trainer(imagen.stages[0], 0, training.learners[0], 1).train_step(batch)


def _cut(config: ImagenConfig) -> ImagenConfig:
    return config.replace(image_sizes=config.image_sizes[:1], stages=config.stages[:1])


def _x(case: Case, imagen: Imagen, pixels: float) -> float:
    """Return the size that the case's measure is fitted against."""
    if case["against"] == "parameters":
        return count_parameters(imagen.stages[0])
    return pixels if case["against"] == "pixels" else case["value"]


def _batch(config: ImagenConfig, width: int, tokens: int, size: int) -> Batch:
    random = generator("growth")
    shape = (size, 3, *config.image_sizes[-1])
    images = torch.randint(0, 256, shape, generator=random).to(torch.uint8)
    embeds = torch.randn(size, tokens, width, generator=random)
    return Batch(images, embeds, torch.ones(size, tokens, dtype=torch.bool))


def cases(quick: bool) -> Iterator[Case]:
    """Yield all points."""
    cascade = ROOT / "parameters" / ("testing" if quick else "")
    common: Case = {
        "cascade": str(cascade.relative_to(ROOT)),
        "settings": fingerprint(*read_parameters(cascade)[:2]),
        "side": 16 if quick else 32,
        "tokens": 8 if quick else 16,
        "batch": 2 if quick else 8,
        "repeats": 2 if quick else 15,
        "warmup": 1 if quick else 3,
    }
    for against, values in (QUICK_SIZES if quick else SIZES).items():
        for value in values:
            yield common | {"against": against, "value": value}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    arguments = build_parser(__doc__).parse_args(argv)
    if answer(arguments, measure):
        return []
    return run_cases("benchmarks.growth", cases(arguments.quick), measure, arguments)


if __name__ == "__main__":
    main()
