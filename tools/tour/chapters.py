"""The chapters of the tour: each samples with a trained cascade and returns a sheet of images."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minimagen import Imagen, editing
from minimagen.diffusion.augmentation import augment
from minimagen.diffusion.prediction import add_noise
from minimagen.draws import SeededNoise
from minimagen.images import resize_clamped, to_model_space
from minimagen.networks.attention_maps import observed_attention
from minimagen.shapes.dataset import ShapesDataset
from minimagen.text.pretrained import PretrainedEncoder
from tools.tour.sheets import images_of, sheet

CAPTION = "a large red star on a blue background"
CAPTIONS = [
    CAPTION,
    "a small green heart on a white background",
    "a large white ring on a checkered purple background",
    "a large orange circle on purple",
    "a large red moon on a polka-dot black background",
    "a large red heart on a green background with stripes",
]
THRESHOLDINGS = ("none", "static", "dynamic")
TIMES = tuple(i / 10 for i in range(11))
STEPS = 8
EVERYWHERE = (0.0, 1.0)
STRONG = 8.0
AUG_LEVELS = (0.0, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Tour:
    """A trained cascade of the embedded data, and a seed; two stages or more."""

    imagen: Imagen
    seed: int = 0

    def stages(self, captions: list[str], **settings: Any) -> list[Tensor]:
        """Return the images of every stage, [b 3 h w] each; image i has the seed ``seed + i``."""
        seeds = [self.seed + i for i in range(len(captions))]
        samplings = self.imagen.samplings(**settings)
        return next(self.imagen.sample_batches(captions, samplings, seeds))

    def per_stage(self, value: Any) -> list[Any]:
        """Return a setting of the base alone."""
        return [value] + [None] * (len(self.imagen.stages) - 1)

    @property
    def side(self) -> int:
        """Return the side of the final images."""
        return self.imagen.config.image_sizes[-1][0]


def wrapped(captions: list[str]) -> list[str]:
    """Return captions as labels of columns."""
    return ["\n".join(textwrap.wrap(caption, 16)) for caption in captions]


def real_images(side: int, count: int) -> Tensor:
    """Return ``count`` images of the embedded data in model space, [b 3 side side]."""
    data = ShapesDataset(size=side)
    arrays = [torch.as_tensor(data[i].image).movedim(-1, 0) for i in range(count)]
    return to_model_space(torch.stack(arrays))


def levels(tour: Tour) -> list[tuple[float, float, float, float]]:
    """Return (t, alpha, sigma, log-SNR) of the base's schedule at ``TIMES``."""
    level = tour.imagen.stages[0].schedule.level(torch.tensor(TIMES, dtype=torch.float64))
    return list(zip(TIMES, *(each.tolist() for each in level), strict=True))


def noise(tour: Tour) -> Image.Image:
    """Two real images at each of ``TIMES``."""
    x_0 = real_images(tour.side, 2)
    eps = SeededNoise([tour.seed, tour.seed + 1], 0)("tour", x_0.shape[1:])
    schedule = tour.imagen.stages[0].schedule
    columns = []
    for t in TIMES:
        level = schedule.level(torch.full((len(x_0),), t))
        columns.append(images_of(add_noise(x_0, eps, level.like(x_0))))
    labels = [f"t = {t:.1f}" for t in TIMES]
    return sheet(list(zip(*columns, strict=True)), labels, side=80)


def film(tour: Tour) -> Image.Image:
    """The estimate of x_0 after each step, a row for each stage."""
    frames = editing.film(tour.imagen, CAPTION, seed=tour.seed, timesteps=STEPS, progress=False)
    estimates = [
        [frame.image for frame in frames[:-1] if frame.stage == i]
        for i in range(len(tour.imagen.stages))
    ]
    labels = [f"step {i + 1}\nt = {1 - i / STEPS:.3g}" for i in range(STEPS)]
    sizes = [size[0] for size in tour.imagen.config.image_sizes]
    names = [f"stage {i}\n{side} px" for i, side in enumerate(sizes)]
    return sheet(estimates, labels, names)


def guidance(tour: Tour) -> Image.Image:
    """Guidance 1, 3 and 8 in the base's own interval, and 8 at all times."""
    base = tour.imagen.samplings()[0]
    own = base.guidance_interval
    rows = [
        images_of(
            tour.stages(
                CAPTIONS,
                guidance_scale=tour.per_stage(scale),
                guidance_interval=tour.per_stage(interval),
            )[-1]
        )
        for scale, interval in ((1.0, own), (3.0, own), (8.0, own), (8.0, EVERYWHERE))
    ]
    return sheet(rows, wrapped(CAPTIONS), ["1", "3", "8", "8, at all\ntimes"])


def thresholding(tour: Tour) -> Image.Image:
    """The base's images with its own settings, then with strong guidance and each thresholding."""
    rows = [images_of(tour.stages(CAPTIONS)[0])]
    for kind in THRESHOLDINGS:
        strong = {
            "guidance_scale": STRONG,
            "guidance_interval": EVERYWHERE,
            "thresholding": kind,
            "timesteps": 2 * STEPS,
        }
        base = {name: tour.per_stage(value) for name, value in strong.items()}
        rows.append(images_of(tour.stages(CAPTIONS, **base)[0]))
    scale = tour.imagen.samplings()[0].guidance_scale
    names = [f"guidance {scale:g}", *(f"{STRONG:g}, {kind}" for kind in THRESHOLDINGS)]
    return sheet(rows, wrapped(CAPTIONS), names)


def augmentation(tour: Tour) -> Image.Image:
    """A real low-resolution image at several aug_levels, and what super-resolution makes of it."""
    stage = tour.imagen.stages[1]
    height, width = stage.low_res_size
    real = real_images(tour.side, 1)
    low_res = resize_clamped(real, (height, width))
    eps = SeededNoise([tour.seed], 1)("aug", low_res.shape[1:])
    seen, made = [], []
    for aug_level in AUG_LEVELS:
        noised = augment(low_res, torch.tensor([aug_level]), eps, stage.aug_schedule).images
        seen += images_of(noised)
        samplings = tour.imagen.samplings(aug_level=aug_level)[1:2]
        enlarged = tour.imagen.sample_batches(
            [CAPTION], samplings, [tour.seed], first=1, low_res=low_res
        )
        made += images_of(next(enlarged)[0])
    rows = [[*images_of(low_res), *seen], [*images_of(real), *made]]
    labels = ["real image", *(f"aug_level {aug_level:g}" for aug_level in AUG_LEVELS)]
    return sheet(rows, labels, ["low resolution", "after stage 1"], side=128)


def parts(tour: Tour) -> Image.Image:
    """What the base makes, its bicubic enlargement, and what super-resolution makes of it."""
    base, final = tour.stages(CAPTIONS[:4])[:2]
    bicubic = resize_clamped(base, (final.shape[-2], final.shape[-1]))
    names = [
        f"base\n{base.shape[-1]} px",
        f"bicubic\n{final.shape[-1]} px",
        f"super-resolution\n{final.shape[-1]} px",
    ]
    rows = [images_of(each) for each in (base, bicubic, final)]
    return sheet(rows, wrapped(CAPTIONS[:4]), names, side=160)


def null_token(tour: Tour) -> Image.Image:
    """The same seeds with captions and with the null token: guidance 1 and 0 at all times."""
    everywhere = tour.per_stage(EVERYWHERE)
    rows = [
        images_of(
            tour.stages(
                CAPTIONS, guidance_scale=tour.per_stage(scale), guidance_interval=everywhere
            )[-1]
        )
        for scale in (1.0, 0.0)
    ]
    return sheet(rows, wrapped(CAPTIONS), ["caption", "null token"])


def attention(tour: Tour) -> Image.Image:
    """For each token of a caption, where in the image the base attends to it.

    Each map is the mean over all steps and over the layers of the finest resolution; a map is
    scaled so that its least value is black and its largest white.
    """
    settings = {"guidance_scale": tour.per_stage(1.0)}  # one row: the caption's, no null token's
    with observed_attention(tour.imagen.stages[0]) as maps:
        final = tour.stages([CAPTION], **settings)[-1]
    finest = max(each.shape[-1] for each in maps)
    mean = torch.stack([each[0] for each in maps if each.shape[-1] == finest]).mean(0)
    tokens = PretrainedEncoder(tour.imagen.text_encoder.name).pieces(CAPTION)
    cells, labels = images_of(final), ["image"]
    for token, share in zip(tokens, mean, strict=False):
        low, high = share.min(), share.max()
        scaled = (share - low) / (high - low).clamp(min=1e-6)
        cells.append(_overlay(final[0], scaled))
        labels.append(f"{token}\n{100 * share.mean():.0f} %")
    half = (len(cells) + 1) // 2
    return _two_rows(cells, labels, half)


def _overlay(image: Tensor, share: Tensor) -> Image.Image:
    """Return the image, dark where ``share`` [h w] in [0, 1] is 0."""
    mask = resize_clamped(2.0 * share[None, None] - 1.0, (image.shape[-2], image.shape[-1]))[0]
    brightness = 0.15 + 0.85 * (mask + 1.0) / 2.0
    return images_of(((image + 1.0) * brightness - 1.0)[None])[0]


def _two_rows(cells: list[Image.Image], labels: list[str], half: int) -> Image.Image:
    """Return the cells in two sheets, one below the other."""
    sheets = [sheet([cells[:half]], labels[:half]), sheet([cells[half:]], labels[half:])]
    page = Image.new("RGB", (sheets[0].width, sheets[0].height + sheets[1].height), "white")
    page.paste(sheets[0], (0, 0))
    page.paste(sheets[1], (0, sheets[0].height))
    return page


CHAPTERS = {
    "noise": noise,
    "film": film,
    "guidance": guidance,
    "thresholding": thresholding,
    "augmentation": augmentation,
    "parts": parts,
    "null_token": null_token,
    "attention": attention,
}
"""The image files of the tour, without their suffix, in the order of the page."""


def write_images(tour: Tour, folder: Path) -> None:
    """Write each chapter's sheet to ``folder`` as a PNG of few bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in CHAPTERS.items():
        make(tour).save(folder / f"{name}.png", optimize=True)
        print(folder / f"{name}.png")
