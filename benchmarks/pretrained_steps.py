"""In how many steps a model of diffusers' is sampled: our samplers beside diffusers' schedulers.

    python -m benchmarks.pretrained_steps

The noise levels and the scheduler's file are those of Stable Diffusion 1. Instead of its network
there is one that is exact: the data are Gaussians around drawn digits, whose best estimate is
known (``Oracle``), so that all that differs from the image is the sampler's own. Every side begins
with the same noise. The figure is how far its images are from those of DDIM in 1000 steps, which
has all times of the model.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from benchmarks.measuring import Case, Row, answer, build_parser, run_cases
from benchmarks.pretrained_models import SD1, write_sd
from minimagen import Imagen
from minimagen.data.loading.reading import stack_images
from minimagen.diffusion.samplers import build_step, integrate
from minimagen.diffusion.schedule import Level, level_at
from minimagen.draws import SeededNoise
from minimagen.images import to_model_space
from minimagen.shapes.dataset import embedded
from minimagen.stages.diffusers import DiffusersStage

IMAGES, DATA, SIDE = 24, 100, 16
WIDTH = 0.1  # standard deviation around each digit
STEPS = (5, 10, 20, 50)
REFERENCE = 1000
OURS: dict[str, dict[str, Any]] = {
    "ddim, own times": {"sampler": "ddim", "spacing": "own"},
    "ddim, trailing": {"sampler": "ddim", "spacing": "trailing"},
    "ddim, equal": {"sampler": "ddim", "spacing": "equal"},
    "dpm++, own times": {"sampler": "dpm++", "spacing": "own"},
    "dpm++, trailing": {"sampler": "dpm++", "spacing": "trailing"},
    "dpm++, equal": {"sampler": "dpm++", "spacing": "equal"},
    "heun, own times (two calls a step)": {"sampler": "heun", "spacing": "own"},
}
THEIRS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DDIM, own times": (DDIMScheduler, {}),
    "DDIM, trailing": (DDIMScheduler, {"timestep_spacing": "trailing"}),
    "DPM-Solver++, own times": (DPMSolverMultistepScheduler, {}),
    "DPM-Solver++, trailing": (DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}),
    "DPM-Solver++, Karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}


class Oracle:
    """The mean of x_0 given x_t, where x_0 is one of some images plus Gaussian noise.

    Args:
        images: float64 [k 3 h w] in [-1, 1].
        width: The noise's standard deviation.
    """

    def __init__(self, images: Tensor, width: float) -> None:
        self._means, self._variance = images.flatten(1), width**2

    def __call__(self, x_t: Tensor, level: Level) -> Tensor:
        """Return the estimate, [b 3 h w]; all rows are at one noise level."""
        alpha, sigma = (each.double().flatten()[0] for each in (level.alpha, level.sigma))
        x = x_t.double().flatten(1)
        total = alpha**2 * self._variance + sigma**2
        weights = (-torch.cdist(x, alpha * self._means).square() / (2 * total)).softmax(1)
        mean = weights @ self._means
        estimate = mean + alpha * self._variance / total * (x - alpha * mean)
        return estimate.reshape(x_t.shape)


class Sampling:
    """Both sides with one estimate and one start."""

    def __init__(self, stage: DiffusersStage, oracle: Oracle) -> None:
        self.stage, self.oracle = stage, oracle
        self.start = SeededNoise(range(IMAGES), 0)("start", (3, SIDE, SIDE)).double()

    def ours(self, steps: int, **settings: Any) -> Tensor:
        """Return the images of one of our samplers."""
        sampling: Any = self.stage.settings(timesteps=steps, **settings)
        schedule = self.stage.schedule
        return integrate(
            build_step(sampling.sampler, schedule, sampling.eta),
            lambda x_t, t: self.oracle(x_t, level_at(schedule, t)),
            self.start,
            self.stage.times(sampling, 1.0),
            lambda i: torch.zeros_like(self.start),
        )

    def theirs(self, steps: int, kind: Any, **changes: Any) -> Tensor:
        """Return the images of one of diffusers' schedulers."""
        own = {k: v for k, v in SD1.config.items() if not k.startswith("_")}  # said or not
        scheduler = kind.from_config(own | {"clip_sample": False} | changes)
        scheduler.set_timesteps(steps)
        if kind is DPMSolverMultistepScheduler:
            scheduler.set_begin_index(0)  # it looks for its first time, and may find a later one
        x_t, schedule = self.start, self.stage.schedule
        for time in scheduler.timesteps:
            level = schedule.level(schedule.time(time.double()))
            eps = (x_t - level.alpha * self.oracle(x_t, level)) / level.sigma
            x_t = scheduler.step(eps, time, x_t, return_dict=False)[0].double()
        return x_t


def measure(case: Case, started: float) -> Row:
    """Sample with everything."""
    del started
    samples = list(embedded("digits", split="train", size=SIDE, seed=1, epoch_size=DATA))
    oracle = Oracle(to_model_space(stack_images(samples)).double(), WIDTH)
    with tempfile.TemporaryDirectory() as place:
        (stage,) = Imagen.from_pretrained(write_sd(Path(place) / "sd", SD1)).stages
    assert isinstance(stage, DiffusersStage)
    both = Sampling(stage, oracle)
    reference = both.ours(case["reference"], sampler="ddim", spacing="own")
    sides: dict[str, Callable[[int], Tensor]] = {}
    for name, settings in OURS.items():
        sides[f"ours: {name}"] = partial(both.ours, **settings)
    for name, (kind, changes) in THEIRS.items():
        sides[f"diffusers: {name}"] = partial(both.theirs, kind=kind, **changes)
    distance = {
        name: {steps: _distance(sample(steps), reference) for steps in case["steps"]}
        for name, sample in sides.items()
    }
    return {"images": IMAGES, "distance": distance}


def _distance(images: Tensor, reference: Tensor) -> float:
    """Return the root of the mean squared difference, of 255."""
    return float((images - reference).square().mean().sqrt() * 127.5)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and print a table."""
    arguments = build_parser(__doc__).parse_args(argv)
    if answer(arguments, measure):
        return []
    quick = {"steps": [2], "reference": 10}
    case = quick if arguments.quick else {"steps": list(STEPS), "reference": REFERENCE}
    rows = run_cases("benchmarks.pretrained_steps", [case], measure, arguments)
    for row in rows:
        for name, by_steps in row["distance"].items():
            print(f"{name:42}", *(f"{steps}: {d:6.2f}" for steps, d in by_steps.items()))
    return rows


if __name__ == "__main__":
    main()
