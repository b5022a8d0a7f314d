"""Emoji cut out of their white squares and set on plain colors, so that captions combine.

    "a red apple, noto style, on a blue background"

The emoji lie in a folder with ``metadata.jsonl`` (columns file_name, text, tags, group, style,
codepoints), composited on white at 64 x 64. Only styles under permissive licenses are taken. Half
of the samples are as they are, on white. One style of some emoji is held out (``is_held_out``).
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.real_data import is_held_out
from minimagen.config import Size
from minimagen.data.indexed import BaseDataset
from minimagen.draws import rng
from minimagen.errors import UserError
from minimagen.sample import Sample
from minimagen.shapes.drawing import COLORS
from minimagen.shapes.wording import with_article

SIDE = 64  # px
STYLES = ("noto", "fluent3d")  # the third one, openmoji, is share-alike
WHITE = (255, 255, 255)
GROUNDS = COLORS | {"white": WHITE}
NEAR_WHITE = 6  # of 255: a pixel this near to white, joined to the border, is background
PALE = 60.0  # distance to white: an edge this pale may be taken for background
PALE_SHARE = 0.3  # of the edge: emoji with more of it stay on white
APART = 90.0  # least distance in RGB of a background from the emoji's edge
ON_WHITE, TAGGED = 0.5, 0.1  # shares of the samples
PREPOSITIONS = r" (?:with|in|on|of|showing|holding|wearing|blowing|and|behind|over|at|under)\b.*"
SINGULAR_S = ("ss", "us", "os")  # of words that end in s and are no plurals


@dataclass(frozen=True)
class Cutout:
    """An emoji without its background.

    Attributes:
        rgba: uint8 [64 64 4], colors not multiplied by alpha.
        edge: RGB, the mean color of its outermost pixels.
        pale: the share of its outermost pixels that are nearly white.
    """

    rgba: np.ndarray
    edge: np.ndarray
    pale: float

    @property
    def grounds(self) -> tuple[str, ...]:
        """Return the backgrounds that differ from its edge; none where the edge is pale."""
        if self.pale > PALE_SHARE:
            return ()
        far = {name: np.linalg.norm(self.edge - color) for name, color in GROUNDS.items()}
        return tuple(name for name, distance in far.items() if distance > APART)

    def over(self, color: tuple[int, int, int]) -> np.ndarray:
        """Return the emoji on a plain color, uint8 [64 64 3]."""
        alpha = self.rgba[..., 3:].astype(np.float32) / 255
        mixed = self.rgba[..., :3] * alpha + np.array(color, np.float32) * (1 - alpha)
        return mixed.round().astype(np.uint8)


def cut_out(image: np.ndarray) -> Cutout:
    """Cut what was composited on white, uint8 [h w 3], out of its background.

    The background is what is nearly white and joined to the border. A pixel beside it is a mixture,
    p = alpha c + (1 - alpha) white, where c is the darkest color around it: alpha follows, and c is
    chosen again so that the mixture on white is p.
    """
    dark = 255.0 - image.astype(np.float32)
    outside = _joined_to_border(dark.max(2) <= NEAR_WHITE)
    edge = _grown(outside) & ~outside
    darkest = _darkest_around(dark)
    strength = np.maximum((darkest**2).sum(2), 1.0)
    mixture = np.clip((dark * darkest).sum(2) / strength, 1 / 255, 1.0)
    alpha = np.where(outside, 0.0, np.where(edge, mixture, 1.0))
    color = 255.0 - dark / np.maximum(alpha, 1 / 255)[..., None]
    color[outside] = 255.0
    rgba = np.dstack([color.clip(0, 255), 255 * alpha]).round().astype(np.uint8)
    around = darkest[edge] if edge.any() else np.zeros((1, 3), np.float32)
    pale = float((np.sqrt((around**2).sum(1)) < PALE).mean())
    return Cutout(rgba, 255.0 - around.mean(0), pale)


def _joined_to_border(mask: np.ndarray) -> np.ndarray:
    """Return the part of a mask that is connected with the image's border, bool [h w]."""
    h, w = mask.shape
    framed = Image.new("L", (w + 2, h + 2), 1)
    framed.paste(Image.fromarray(mask.astype(np.uint8)), (1, 1))
    ImageDraw.floodfill(framed, (0, 0), 2)
    return np.asarray(framed)[1:-1, 1:-1] == 2


def _grown(mask: np.ndarray) -> np.ndarray:
    """Return a mask and its eight neighbors."""
    image = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(3))
    return np.asarray(image) > 0


def _darkest_around(dark: np.ndarray) -> np.ndarray:
    """Return for each pixel the farthest from white of the nine around it, [h w 3]."""
    h, w, _ = dark.shape
    padded = np.pad(dark, ((1, 1), (1, 1), (0, 0)))
    nine = np.stack([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)])
    best = (nine**2).sum(3).argmax(0)[None, :, :, None]
    return np.take_along_axis(nine, best, 0)[0]


def takes_article(row: Mapping[str, Any]) -> bool:
    """Return whether the name of an emoji is a thing of which there is one."""
    name = row["text"]
    if row["group"] in ("symbols", "flags") or not re.fullmatch(r"[a-z][a-z -]+", name):
        return False
    if name.split()[0] in ("people", "men", "women", "two", "hundred"):
        return False
    noun = re.sub(PREPOSITIONS, "", name).split()[-1]
    return not noun.endswith("s") or noun.endswith(SINGULAR_S)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all styles, each with ``held_out`` and with the tags that only it has.

    Raises:
        UserError: there are no emoji.
    """
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise UserError(f"no emoji in {folder}: {path.name} is missing; name their folder")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    owners: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for word in (row["text"], *row["tags"]):
            owners[word.lower()].add(row["codepoints"])
    for row, held_out in zip(rows, is_held_out(rows), strict=True):
        row["held_out"] = held_out
        plain = (tag.lower() for tag in row["tags"] if re.fullmatch(r"[A-Za-z][a-z -]{2,}", tag))
        row["tags"] = [tag for tag in plain if len(owners[tag]) == 1]
    return rows


class ComposedEmoji(BaseDataset):
    """Emoji of the permissive styles on plain backgrounds, one sample per emoji and epoch.

    Background and wording are drawn: in training anew each time, by index the same ones.
    """

    def __init__(self, folder: Path, part: str = "train", seed: int = 0) -> None:
        """Read and cut out the emoji; a second per two hundred.

        Args:
            folder: that of ``metadata.jsonl``.
            part: "train" (validated on the held-out part), "held out" (combinations whose emoji
                is trained on in the other style), or "all".
            seed: of the samples by index.
        """
        rows = [row for row in read_rows(folder) if row["style"] in STYLES]
        seen = {row["text"] for row in rows if not row["held_out"]}
        chosen = {
            "train": lambda row: not row["held_out"],
            "held out": lambda row: row["held_out"] and row["text"] in seen,
            "all": lambda row: True,
        }[part]
        self.emoji = [row for row in rows if chosen(row)]
        self.part, self.seed = part, seed
        self.description = {"dataset": "composed_emoji", "seed": seed}
        if part == "train":
            self.validation = ComposedEmoji(folder, "held out", seed)
        self._cutouts = [_cut_out_file(folder / row["file_name"]) for row in self.emoji]

    @cached_property
    def sizes(self) -> Mapping[Size, int]:
        """Return the number of emoji, by their one size."""
        return {(SIDE, SIDE): len(self)}

    def __len__(self) -> int:
        return len(self.emoji)

    def __getitem__(self, index: int) -> Sample:
        return self.draw(index, rng("composed emoji", self.seed, self.part, index))

    def draw(self, index: int, rng: Random) -> Sample:
        """Return an emoji on a background that differs from its edge, in one of many wordings."""
        grounds = self.grounds(index)
        named = rng.random() >= ON_WHITE and len(grounds) > 0
        ground = rng.choice(grounds) if named else ""
        return self.compose(index, ground, wording(self.emoji[index], ground, rng))

    def grounds(self, index: int) -> tuple[str, ...]:
        """Return the names of the backgrounds that an emoji may be set on."""
        return self._cutouts[index].grounds

    def compose(self, index: int, ground: str, caption: str) -> Sample:
        """Return one emoji on one of ``GROUNDS``, on white where ``ground`` is empty."""
        row = self.emoji[index]
        image = self._cutouts[index].over(GROUNDS[ground or "white"])
        attributes = {"name": row["text"], "style": row["style"], "background": ground or "white"}
        return Sample(image, caption, attributes, row["file_name"])


def wording(row: Mapping[str, Any], ground: str, rng: Random) -> str:
    """Return one of several captions of an emoji; a background is named unless it is empty."""
    name, article = row["text"], takes_article(row)
    if row["tags"] and rng.random() < TAGGED:
        name, article = rng.choice(row["tags"]), False
    if article and rng.random() < 0.5:
        name = with_article(name)
    style = f"{row['style']} style"
    if not ground:
        return f"{name}, {style}"
    on = f"on {with_article(ground)} background"
    return f"{name}, {style}, {on}" if rng.random() < 0.7 else f"{name} {on}, {style}"


@cache
def _cut_out_file(path: Path) -> Cutout:
    with Image.open(path) as image:
        return cut_out(np.asarray(image.convert("RGB")))
