"""The third embedded data set: a digit in a color on a solid or textured background."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from minimagen.errors import UserError, did_you_mean
from minimagen.shapes.drawing import COLORS
from minimagen.shapes.glyphs import DrawnGlyphs, Glyphs, WrittenGlyphs
from minimagen.shapes.splits import split_by_hash
from minimagen.shapes.textures import GeneratedTextures, RealTextures, Textures, crop
from minimagen.shapes.wording import vary_spelling, with_article

DIGITS = tuple("0123456789")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ATTRIBUTES = ("digit", "color", "background", "texture")
TEXTURED = 0.5  # share of images with a material behind the digit
PARTIAL = 0.1  # share of training captions without the color, and again without the background
FILES = ("mnist", "textures")

_TEMPLATES = (
    "{a_color} {digit} on {ground}",
    "{digit} in {color} on {ground}",
    "the digit {digit} in {color} on {ground}",
    "{a_color} digit {digit} on {ground}",
    "{ground} with {a_color} {digit}",
    "generate image of {digit} in {color} on a background of {surface}",
)
_WITHOUT_COLOR = ("{digit} on {ground}", "the digit {digit} on {ground}")
_WITHOUT_BACKGROUND = ("{a_color} {digit}", "{digit} in {color}", "the digit {digit} in {color}")


def hash_file(path: str) -> str:
    """Return a digest of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@dataclass(frozen=True)
class Digits:
    """What the images of ``digits`` are drawn of.

    Attributes:
        glyphs: The digits.
        textures: The materials.
        content: What changes with the files that they come from; empty where all is drawn.
    """

    glyphs: Glyphs = field(default_factory=DrawnGlyphs)
    textures: Textures = field(default_factory=GeneratedTextures)
    content: str = ""
    ATTRIBUTES: Sequence[str] = ATTRIBUTES

    @classmethod
    def of(cls, files: str) -> "Digits":
        """Return the drawing of ``mnist=FILE,textures=FILE``, either of them or none.

        Raises:
            UserError: there is no such option, or a file is not usable.
        """
        given: dict[str, str] = {}
        for part in filter(None, files.split(",")):
            name, equals, value = part.partition("=")
            if name not in FILES or not equals or not value:
                raise UserError(
                    f"digits: {part!r} is not one of mnist=FILE, textures=FILE"
                    f"{did_you_mean(name, FILES)}"
                )
            given[name] = value
        glyphs = WrittenGlyphs(given["mnist"]) if "mnist" in given else DrawnGlyphs()
        real = "textures" in given
        textures = RealTextures(given["textures"]) if real else GeneratedTextures()
        content = [hash_file(given[name]) for name in sorted(given)]
        return cls(glyphs, textures, " ".join(content))

    @cached_property
    def backgrounds(self) -> tuple[str, ...]:
        """Return all backgrounds: colors, then materials."""
        return (*COLORS, *self.textures.materials)

    def attributes_for(self, split: str, rng: Random) -> dict[str, str]:
        """Draw the attributes of one image of a split; its digit never has its background's color.

        The split is that of the triple of digit, color and background.
        """
        while True:
            digit, color = rng.choice(DIGITS), rng.choice(tuple(COLORS))
            textured = rng.random() < TEXTURED
            ground = rng.choice(self.textures.materials if textured else tuple(COLORS))
            if ground != color and split_by_hash(f"{digit} in {color} on {ground}") == split:
                texture = "yes" if textured else "no"
                return dict(digit=digit, color=color, background=ground, texture=texture)

    def draw(
        self, attributes: Mapping[str, str], rng: Random, size: int = 64, split: str = "train"
    ) -> np.ndarray:
        """Draw an image, uint8 [size, size, 3], with glyphs and tiles of the split."""
        ground = attributes["background"]
        if attributes["texture"] == "yes":
            image = crop(self.textures.tile(ground, split, rng), rng, size)
        else:
            image = Image.new("RGB", (size, size), COLORS[ground])
        mask = self.glyphs.mask(attributes["digit"], split, rng, size)
        image.paste(COLORS[attributes["color"]], mask=mask)
        return np.array(image)

    def caption_for(self, attributes: Mapping[str, str], rng: Random, split: str = "train") -> str:
        """Return one of many wordings; only in training some leave color or background out."""
        color, ground = attributes["color"], attributes["background"]
        solid = attributes["texture"] == "no"
        place = rng.choice((f"{with_article(ground)} background", ground)) if solid else ground
        chance = rng.random() if split == "train" else 1.0
        if chance < PARTIAL:
            template = rng.choice(_WITHOUT_COLOR)
        elif chance < 2 * PARTIAL:
            template = rng.choice(_WITHOUT_BACKGROUND)
        else:
            template = rng.choice(_TEMPLATES)
        digit = attributes["digit"]
        named = digit if rng.random() < 0.7 else WORDS[int(digit)]
        caption = template.format(
            digit=named, color=color, a_color=with_article(color), ground=place, surface=ground
        )
        return vary_spelling(caption, rng)
