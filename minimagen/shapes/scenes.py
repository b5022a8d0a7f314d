"""The second level of the embedded data set: relations, counts, digits and letters.

Attributes describe the image, not the wording: "a red star left of a blue ring" and "a blue ring
right of a red star" are the same image, so `relation` is always "left of", "above" or "inside",
and `shape` and `color` belong to the object on the left, on top or inside.
"""

import math
import string
from collections.abc import Mapping
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minimagen.shapes.drawing import COLORS, SHAPES, background, shape_mask
from minimagen.shapes.splits import split_by_hash
from minimagen.shapes.wording import plural, vary_spelling, with_article

# The capitals I and O are left out: in the built-in font they pass for 1 and 0.
GLYPHS = tuple(string.digits + string.ascii_uppercase.replace("I", "").replace("O", ""))
COUNTS = ("two", "three", "four", "five")
RELATIONS = ("left of", "above", "inside")
# What can hold another object: shapes with a wide middle.
OUTER_SHAPES = ("circle", "square", "triangle", "heart")
KINDS: dict[str, tuple[str, ...]] = {
    "relation": ("relation", "shape", "color", "other_shape", "other_color", "background"),
    "count": ("count", "shape", "color", "background"),
    "glyph": ("glyph", "color", "background"),
}
ATTRIBUTES = ("kind", *dict.fromkeys(name for names in KINDS.values() for name in names))

_CENTERS = {
    "two": ((-1, 0), (1, 0)),
    "three": ((0, -1), (-1, 0.8), (1, 0.8)),
    "four": ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    "five": ((-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)),
}
_RELATION_WORDS = {
    "left of": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over"), ("below", "under")),
    "inside": (("inside", "within"), ("around", "containing")),
}
_TEMPLATES = {
    "relation": (
        "{one} {relation} {two} on {a_ground}",
        "{one} {relation} {two}, {ground}",
        "{one} is {relation} {two} on {a_ground}",
    ),
    "count": (
        "{count} {color} {shapes} on {a_ground}",
        "{count} {shapes} in {color} on {a_ground}",
        "there are {count} {color} {shapes} on {a_ground}",
        "{ground} with {count} {color} {shapes}",
    ),
    "glyph": (
        "{a_color} {sort} {glyph} on {a_ground}",
        "the {sort} {glyph} in {color} on {a_ground}",
        "the {color} {sort} {glyph} on {a_ground}",
        "{ground} with {a_color} {sort} {glyph}",
    ),
}


def split_of(attributes: Mapping[str, str]) -> str:
    """Return the split of a scene.

    All attributes but the background make the combination; of a glyph, the background belongs to
    it too, because there is little else.
    """
    kind = attributes["kind"]
    names = [name for name in KINDS[kind] if name != "background" or kind == "glyph"]
    return split_by_hash(" ".join(attributes[name] for name in names))


def attributes_for(split: str, rng: Random) -> dict[str, str]:
    """Draw the attributes of one scene of a split; the three kinds are equally frequent."""
    kind = rng.choice(tuple(KINDS))
    while True:
        attributes = {"kind": kind} | _any_attributes(kind, rng)
        if split_of(attributes) == split:
            return attributes


def _any_attributes(kind: str, rng: Random) -> dict[str, str]:
    """Draw the attributes of one scene of any split; its colors all differ."""
    color, other_color, ground = rng.sample(tuple(COLORS), 3)
    shape = rng.choice(tuple(SHAPES))
    if kind == "glyph":
        return dict(glyph=rng.choice(GLYPHS), color=color, background=ground)
    if kind == "count":
        return dict(count=rng.choice(COUNTS), shape=shape, color=color, background=ground)
    relation = rng.choice(RELATIONS)
    other = rng.choice(OUTER_SHAPES if relation == "inside" else tuple(SHAPES))
    first, second = dict(shape=shape, color=color), dict(other_shape=other, other_color=other_color)
    return dict(relation=relation, **first, **second, background=ground)


def draw(attributes: Mapping[str, str], rng: Random, size: int = 64) -> np.ndarray:
    """Draw a scene, uint8 [size, size, 3]; places, sizes and angles vary a little with `rng`."""
    image = background(attributes["background"], "plain", size)
    draw_kind = {"relation": _draw_relation, "count": _draw_count, "glyph": _draw_glyph}
    draw_kind[attributes["kind"]](image, attributes, rng)
    return np.array(image)


def _draw_shape(
    image: Image.Image,
    shape: str,
    color: str,
    center: tuple[float, float],
    extent: float,
    rng: Random,
) -> None:
    """Draw one shape near ``center``; places and widths are fractions of the side."""
    x, y = (place + rng.uniform(-0.02, 0.02) for place in center)
    extent *= rng.uniform(0.95, 1.05)
    mask = shape_mask(shape, image.width, (x, y), extent, rng.uniform(-10, 10))
    image.paste(COLORS[color], mask=mask)


def _draw_relation(image: Image.Image, attributes: Mapping[str, str], rng: Random) -> None:
    """Draw two objects, the other one first, because it may have to hold the first."""
    one, two, extents = (0.5, 0.5), (0.5, 0.5), (0.4, 0.4)
    if attributes["relation"] == "inside":
        # Triangles are widest low down, hearts high up.
        one = (0.5, {"triangle": 0.6, "heart": 0.45}.get(attributes["other_shape"], 0.5))
        extents = (0.34, 0.86)
    elif attributes["relation"] == "left of":
        one, two = (0.27, 0.5 + rng.uniform(-0.08, 0.08)), (0.73, 0.5 + rng.uniform(-0.08, 0.08))
    else:
        one, two = (0.5 + rng.uniform(-0.08, 0.08), 0.27), (0.5 + rng.uniform(-0.08, 0.08), 0.73)
    other = (attributes["other_shape"], attributes["other_color"])
    _draw_shape(image, *other, two, extents[1], rng)
    _draw_shape(image, attributes["shape"], attributes["color"], one, extents[0], rng)


def _draw_count(image: Image.Image, attributes: Mapping[str, str], rng: Random) -> None:
    """Draw two to five equal objects in the arrangement of a die."""
    extent = {"four": 0.3, "five": 0.26}.get(attributes["count"], 0.36)
    for x, y in _CENTERS[attributes["count"]]:
        center = (0.5 + 0.27 * x, 0.5 + 0.27 * y)
        _draw_shape(image, attributes["shape"], attributes["color"], center, extent, rng)


def _draw_glyph(image: Image.Image, attributes: Mapping[str, str], rng: Random) -> None:
    """Draw a digit or a letter, its visible box centered."""
    side = image.width
    mask = _glyph_mask(attributes["glyph"], side)
    mask = mask.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)
    shift = tuple(round(rng.uniform(-0.05, 0.05) * side) for _ in range(2))
    moved = Image.new("L", (side, side))
    moved.paste(mask, (shift[0], shift[1]))
    image.paste(COLORS[attributes["color"]], mask=moved)


@lru_cache(maxsize=128)
def _glyph_mask(glyph: str, side: int) -> Image.Image:
    """Return a glyph in the middle of a mask in mode "L", in Pillow's built-in font, made bold."""
    over = 4
    mask = Image.new("L", (side * over, side * over))
    font = ImageFont.load_default(size=0.85 * side * over)
    middle, stroke = side * over / 2, math.ceil(0.02 * side * over)
    pen = ImageDraw.Draw(mask)
    left, top, right, bottom = pen.textbbox((0, 0), glyph, font=font, stroke_width=stroke)
    place = (middle - (left + right) / 2, middle - (top + bottom) / 2)
    pen.text(place, glyph, fill=255, font=font, stroke_width=stroke)
    return mask.reduce(over)


def caption_for(attributes: Mapping[str, str], rng: Random) -> str:
    """Return one of many wordings of all attributes; a relation may be said from either side."""
    ground = rng.choice(("{c} background", "plain {c} background")).format(
        c=attributes["background"]
    )
    words = dict(ground=ground, a_ground=with_article(ground), color=attributes["color"])
    kind = attributes["kind"]
    if kind == "relation":
        wordings, reverse = _RELATION_WORDS[attributes["relation"]], rng.random() < 0.5
        one = with_article(f"{attributes['color']} {attributes['shape']}")
        two = with_article(f"{attributes['other_color']} {attributes['other_shape']}")
        one, two = (two, one) if reverse else (one, two)
        words |= dict(one=one, relation=rng.choice(wordings[reverse]), two=two)
    elif kind == "count":
        words |= dict(count=attributes["count"], shapes=plural(attributes["shape"]))
    else:
        glyph = attributes["glyph"]
        sort = "digit" if glyph.isdigit() else "letter"
        words |= dict(glyph=glyph, sort=sort, a_color=with_article(words["color"]))
    return vary_spelling(rng.choice(_TEMPLATES[kind]).format(**words), rng)
