"""Digits as masks: drawn with a font and bent, or written by hand from a file of MNIST."""

import math
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from minimagen.errors import UserError
from minimagen.shapes.splits import split_by_hash
from minimagen.shapes.textures import read_images

OVER = 2  # a mask is drawn so many times as large, then reduced
SOFT = (0.35, 0.65)  # ink below the first is background, above the second digit


class Glyphs(Protocol):
    """Masks of digits that differ from split to split."""

    def mask(self, digit: str, split: str, rng: Random, size: int) -> Image.Image:
        """Draw a mask in mode "L", size x size: 255 where the digit is."""
        ...


class DrawnGlyphs:
    """The digits of Pillow's font: turned, sheared, bent, thin or bold."""

    def mask(self, digit: str, split: str, rng: Random, size: int) -> Image.Image:
        """Draw a mask in mode "L", size x size: 255 where the digit is."""
        side = OVER * size
        canvas = Image.new("L", (side, side))
        height = round(side * rng.uniform(0.7, 0.9))
        stroke = rng.choice((0, 1, 2)) * side // 90
        middle = (side / 2, side / 2)
        ImageDraw.Draw(canvas).text(
            middle, digit, 255, _font(height), anchor="mm", stroke_width=stroke
        )
        canvas = canvas.transform(
            (side, side), Image.Transform.AFFINE, _affine(rng, side), Image.Resampling.BILINEAR
        )
        return _bent(canvas, rng).reduce(OVER)


class WrittenGlyphs:
    """Digits from a parquet file with the columns ``image`` and ``label``, white on black.

    Args:
        file: The parquet file; a tenth of its images is for ``tune``, one for ``heldout``.

    Raises:
        UserError: it is missing or no such file, or lacks a digit.
    """

    def __init__(self, file: str | Path) -> None:
        self._images: dict[tuple[str, str], list[np.ndarray]] = {}
        for i, (image, label) in enumerate(read_images(file, "label", "L")):
            key = split_by_hash(f"written {i}"), label
            self._images.setdefault(key, []).append(image)
        digits, splits = tuple("0123456789"), ("train", "tune", "heldout")
        if missing := [d for d in digits if any((s, d) not in self._images for s in splits)]:
            raise UserError(f"{file} has too few images of the digits {', '.join(missing)}")

    def mask(self, digit: str, split: str, rng: Random, size: int) -> Image.Image:
        """Draw a mask in mode "L", size x size: 255 where the digit is."""
        image = Image.fromarray(rng.choice(self._images[split, digit]))
        side = round(size * rng.uniform(0.8, 1.0))
        ink = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) / 255.0
        low, high = SOFT
        soft = np.clip((ink - low) / (high - low), 0.0, 1.0)
        mask = Image.new("L", (size, size))
        corner = rng.randint(0, size - side), rng.randint(0, size - side)
        mask.paste(Image.fromarray((255 * soft).round().astype(np.uint8)), corner)
        return mask


@lru_cache(maxsize=512)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _affine(rng: Random, side: int) -> tuple[float, ...]:
    """Return the inverse map of a turn, a shear and a small move, around the middle."""
    angle, shear = math.radians(rng.uniform(-15, 15)), rng.uniform(-0.25, 0.25)
    wide = rng.uniform(0.85, 1.15)
    a, b = math.cos(angle) / wide, math.sin(angle) + shear
    d, e = -math.sin(angle) / wide, math.cos(angle)
    x = side / 2 + rng.uniform(-0.06, 0.06) * side
    y = side / 2 + rng.uniform(-0.06, 0.06) * side
    return a, b, side / 2 - a * x - b * y, d, e, side / 2 - d * x - e * y


def _bent(canvas: Image.Image, rng: Random) -> Image.Image:
    """Move the rows of a mask sideways along a sine, and smooth it a little."""
    pixels = np.asarray(canvas)
    side = len(pixels)
    phase, bend = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.05) * side
    moves = np.rint(bend * np.sin(2 * math.pi * np.arange(side) / side + phase)).astype(int)
    columns = (np.arange(side)[None, :] - moves[:, None]) % side
    bent = Image.fromarray(np.take_along_axis(pixels, columns, axis=1))
    return bent.filter(ImageFilter.GaussianBlur(side / 200))
