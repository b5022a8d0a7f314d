"""The first level of the embedded data set: one object on a background."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from random import Random

import numpy as np

from minimagen.shapes.drawing import COLORS, PATTERNS, SHAPES, background, shape_mask
from minimagen.shapes.splits import split_by_hash
from minimagen.shapes.wording import vary_spelling, with_article

SIZES = {"large": 0.8, "small": 0.54}  # width as a fraction of the image's side
ATTRIBUTES = ("shape", "color", "size", "background", "pattern")

_SHIFTS = (-1 / 64, 0.0, 1 / 64)  # of a pattern; few and small, so that bands stay crisp at 16 x 16
_SIZE_WORDS = {"large": ("large", "big", "huge"), "small": ("small", "little", "tiny")}
_BACKGROUND_PHRASES = {
    "plain": ("{c} background", "plain {c} background"),
    "striped": ("striped {c} background", "{c} background with stripes", "{c} striped background"),
    "checkered": ("checkered {c} background", "checked {c} background", "{c} checkerboard"),
    "dotted": ("dotted {c} background", "polka-dot {c} background", "{c} background with dots"),
}
_SURFACES = {
    "plain": "{c}",
    "striped": "{c} stripes",
    "checkered": "{c} checks",
    "dotted": "{c} dots",
}
_TEMPLATES = (
    "a {s} {c} {shape} on {a_ground}",
    "a {s} {c} {shape} on {surface}",
    "{ground} with a {s} {c} {shape}",
    "there is a {s} {c} {shape} on {a_ground}",
    "{s} {c} {shape} in front of {a_ground}",
    "{a_ground}, a {s} {c} {shape} on it",
    "a {s} {shape} in {c} on {a_ground}",
    "picture of a {s} {c} {shape} on {a_ground}",
)


def split_of(color: str, shape: str, background: str) -> str:
    """Return the split of an object on a color; all patterns of a background share one split."""
    return split_by_hash(f"{color} {shape} on {background}")


@lru_cache
def combinations(split: str) -> tuple[tuple[str, str, str], ...]:
    """Return all (color, shape, background) of a split; no object has its background's color."""
    return tuple(
        (color, shape, ground)
        for color, shape, ground in product(COLORS, SHAPES, COLORS)
        if color != ground and split_of(color, shape, ground) == split
    )


def attributes_for(split: str, rng: Random) -> dict[str, str]:
    """Draw the attributes of one image; plain backgrounds are twice as frequent as any other."""
    color, shape, ground = rng.choice(combinations(split))
    pattern = rng.choice(("plain", *PATTERNS))
    size = rng.choice(tuple(SIZES))
    return dict(shape=shape, color=color, size=size, background=ground, pattern=pattern)


def draw(attributes: Mapping[str, str], rng: Random, size: int = 64) -> np.ndarray:
    """Draw an image, uint8 [size, size, 3]; place, angle and pattern's phase vary with `rng`."""
    shift = (rng.choice(_SHIFTS), rng.choice(_SHIFTS))
    image = background(attributes["background"], attributes["pattern"], size, shift)
    center = (0.5 + rng.uniform(-0.04, 0.04), 0.5 + rng.uniform(-0.04, 0.04))
    extent = SIZES[attributes["size"]] * rng.uniform(0.95, 1.05)
    mask = shape_mask(attributes["shape"], size, center, extent, rng.uniform(-12, 12))
    image.paste(COLORS[attributes["color"]], mask=mask)
    return np.array(image)


def caption_for(attributes: Mapping[str, str], rng: Random) -> str:
    """Return one of many wordings of all attributes, at most 14 words; "plain" may be left out."""
    color, pattern = attributes["background"], attributes["pattern"]
    ground = rng.choice(_BACKGROUND_PHRASES[pattern]).format(c=color)
    caption = rng.choice(_TEMPLATES).format(
        s=rng.choice(_SIZE_WORDS[attributes["size"]]),
        c=attributes["color"],
        shape=attributes["shape"],
        ground=ground,
        a_ground=with_article(ground),
        surface=_SURFACES[pattern].format(c=color),
    )
    return vary_spelling(caption, rng)
