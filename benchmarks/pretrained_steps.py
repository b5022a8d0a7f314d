"""In how many steps a model of diffusers' is sampled: our samplers beside diffusers' schedulers.

    python -m benchmarks.pretrained_steps --minutes 5
    python -m benchmarks.pretrained_steps --directory DIR    trained so before

A small IF I of random weights, written by diffusers' own classes, is trained on drawn digits for
some minutes (``train.py --FROM``), for the images of a random network say nothing about samplers.
Then every sampler makes the same images: same start, captions and guidance, nothing clipped. The
figure is how far they are from those of DDIM in 250 steps, all with the same network.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from benchmarks.measuring import ROOT, Case, Row, answer, build_parser, run_cases
from benchmarks.pretrained_models import IF, write_if
from minimagen import Imagen
from minimagen.draws import SeededNoise
from minimagen.stages.diffusers import DiffusersStage
from minimagen.stages.stage import Condition
from minimagen.text.encoding import encode_batch

IMAGES, GUIDANCE = 6, 3.0
CAPTIONS = [
    f"a {color} {digit} on a {background} background"
    for digit, color, background in zip(
        "0123456789" * 3, ("red", "blue", "green") * 10, ("white", "yellow") * 15, strict=True
    )
][:IMAGES]
CALLS = (5, 10, 20, 50)
REFERENCE = 250
OURS: dict[str, dict[str, Any]] = {
    "ddim, own times": {"sampler": "ddim", "spacing": "own"},
    "dpm++, own times": {"sampler": "dpm++", "spacing": "own"},
    "dpm++, trailing": {"sampler": "dpm++", "spacing": "trailing"},
    "dpm++, equal": {"sampler": "dpm++", "spacing": "equal"},
    "ddim, equal": {"sampler": "ddim", "spacing": "equal"},
}
THEIRS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DDIM, own times": (DDIMScheduler, {}),
    "DPM-Solver++, own times": (DPMSolverMultistepScheduler, {}),
    "DPM-Solver++, trailing": (DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}),
    "DPM-Solver++, Karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}
Sample = Callable[[int], Tensor]
"""Steps -> images [n 3 h w], not clipped."""


def trained(minutes: float, side: int, channels: Sequence[int], place: Path) -> Imagen:
    """Return a cascade of one stage, fine-tuned from a random IF I."""
    model, _ = write_if(place, side, block_out_channels=tuple(channels))
    directory = place / "training"
    flags = f"--FROM {model} --DATASET digits --MINUTES {minutes} --BATCH_SIZE 32 --OPTIM_LR 1e-3"
    subprocess.run(
        [sys.executable, "train.py", *flags.split(), "--OUTPUT", str(directory)],
        cwd=ROOT,
        stdout=sys.stderr,
        check=True,
    )
    return Imagen.from_directory(directory)


class Sampling:
    """Both sides with one network, one text and one start."""

    def __init__(self, imagen: Imagen) -> None:
        stage = imagen.stages[0]
        assert isinstance(stage, DiffusersStage)
        self.stage, (height, width) = stage, imagen.config.image_sizes[0]
        stage.encode_own(imagen.text_encoder)
        self.text = encode_batch(imagen.text_encoder, CAPTIONS).pair
        self.noise = SeededNoise(range(IMAGES), 0)
        self.shape = 3, height, width

    @torch.inference_mode()
    def ours(self, steps: int, **settings: Any) -> Tensor:
        """Return the last estimate of x_0 of one of our samplers."""
        estimates: list[Tensor] = []
        sampling = self.stage.settings(
            timesteps=steps, guidance_scale=GUIDANCE, thresholding="none", **settings
        )
        condition = Condition(*self.text, size=self.shape[1:])
        self.stage.sample(
            condition, self.noise, sampling, callback=lambda i, n, x_0: estimates.append(x_0)
        )
        return estimates[-1]

    @torch.inference_mode()
    def theirs(self, steps: int, kind: Any, **changes: Any) -> Tensor:
        """Return the images of one of diffusers' schedulers with the same network."""
        scheduler = kind.from_config(dict(IF) | {"clip_sample": False} | changes)
        scheduler.set_timesteps(steps)
        if kind is DPMSolverMultistepScheduler:
            scheduler.set_begin_index(0)  # it looks for its first time, and may find a later one
        network, rows = self.stage.unet, len(CAPTIONS)
        embeds, mask = (torch.cat([each, each]) for each in self.text)
        text = network.encode_text(embeds, mask, torch.arange(2 * rows) >= rows)
        x_t = self.noise("start", self.shape)
        for time in scheduler.timesteps:
            numbers = time.float().expand(2 * rows)
            with_text, without = network(torch.cat([x_t, x_t]), numbers, text).chunk(2)
            output = without + GUIDANCE * (with_text - without)
            x_t = scheduler.step(output, time, x_t, return_dict=False)[0]
        return x_t


def measure(case: Case, started: float) -> Row:
    """Train the model, then sample with everything."""
    del started
    with tempfile.TemporaryDirectory() as place:
        if case["directory"] is None:
            imagen = trained(case["minutes"], case["side"], case["channels"], Path(place))
        else:
            imagen = Imagen.from_directory(case["directory"])
        both = Sampling(imagen)
        reference = both.ours(case["reference"], sampler="ddim", spacing="own").clamp(-1, 1)
        sides: dict[str, Sample] = {}
        for name, settings in OURS.items():
            sides[f"ours: {name}"] = partial(both.ours, **settings)
        for name, (kind, changes) in THEIRS.items():
            sides[f"diffusers: {name}"] = partial(both.theirs, kind=kind, **changes)
        return {
            "images": len(CAPTIONS),
            "distance": {
                name: {steps: _distance(sample(steps), reference) for steps in case["steps"]}
                for name, sample in sides.items()
            },
        }


def _distance(images: Tensor, reference: Tensor) -> float:
    """Return the root of the mean squared difference, of 255."""
    return float((images.clamp(-1, 1) - reference).square().mean().sqrt() * 127.5)


def cases(quick: bool, minutes: float, directory: str | None) -> Iterator[Case]:
    """Yield what is measured."""
    common: Case = {"directory": directory}
    if quick:
        common |= {"minutes": 0.05, "side": 8, "channels": [16, 32], "steps": [2]}
        yield common | {"reference": 4}
    else:
        common |= {"minutes": minutes, "side": 32, "channels": [48, 96], "steps": list(CALLS)}
        yield common | {"reference": REFERENCE}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and print a table."""
    parser = build_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of training [5]")
    parser.add_argument("--directory", help="training directory to sample with [a new one]")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    chosen = cases(arguments.quick, arguments.minutes, arguments.directory)
    rows = run_cases("benchmarks.pretrained_steps", chosen, measure, arguments)
    for row in rows:
        for name, by_steps in row["distance"].items():
            print(f"{name:34}", *(f"{steps}: {d:6.2f}" for steps, d in by_steps.items()))
    return rows


if __name__ == "__main__":
    main()
