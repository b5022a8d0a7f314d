"""Captions to sample, from the command line or from a file, each with options of its own."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from minimagen.checked import PositiveInt
from minimagen.cli import options
from minimagen.cli.arguments import Option, Parser
from minimagen.errors import UserError
from minimagen.storage.files import read_lines

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
OTHER_FILES = {".json", ".md", ".text", ".caption", ".xlsx"}
CAPTION_COLUMNS = ("caption", "text", "prompt")
ALIASES = {"GUIDANCE": "GUIDANCE_SCALE", "STEPS": "TIMESTEPS"}


def aspect_ratio(text: str) -> float:
    """Return width : height, given as such or as one number."""
    width, _, height = text.partition(":")
    try:
        ratio = float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0 < ratio < float("inf"):
        raise ValueError("must be width:height, such as 3:2")
    return ratio


IMAGES_PER_CAPTION = Option(
    "IMAGES_PER_CAPTION", "n", "Images of each caption", PositiveInt, 1,
    also=("num_images", "num_samples", "num_images_per_prompt", "num_images_per_caption",
          "n_iter", "batch_count"),
)  # fmt: skip
SEED = Option(
    "SEED", "sd", "Seed; image i has SEED + i", Annotated[int, Field(ge=0)],
    shown="a fresh one", also=("generator", "manual_seed"),
)  # fmt: skip
NEGATIVE = Option(
    "NEGATIVE", "ng", "What images should not show: guidance leads away from this caption",
    also=("negative_prompt", "negative_caption", "neg"),
)  # fmt: skip
ASPECT_RATIO = Option(
    "ASPECT_RATIO", "ar", "Width:height of the images",
    Annotated[float, BeforeValidator(aspect_ratio)], shown="the cascade's own",
    also=("width", "height"),
)  # fmt: skip
PER_CAPTION = tuple(
    option.but(default=None)
    for option in (IMAGES_PER_CAPTION, SEED, NEGATIVE, ASPECT_RATIO, *options.SAMPLING)
)
"""What a line of a file may set for its own images."""
SHORT = {option.short: option.name for option in PER_CAPTION}
LETTERS, WORDS = ("|".join(s for s in SHORT if (len(s) == 1) == one) for one in (True, False))
OWN = re.compile(rf"\s+(?=--[A-Za-z]|-(?:{LETTERS})[\s=]+[\d.]|-(?:{WORDS})[\s=]+\S)")
"""Where a line's options begin: a short flag of one letter only before a number."""


@dataclass(frozen=True)
class Caption:
    """A caption, and what its line sets for it: values by the name of the option."""

    text: str
    own: Mapping[str, Any] = field(default_factory=dict)


def read_captions(given: str) -> list[Caption]:
    """Return the captions of a ``.txt`` file or of a table, or the caption itself.

    Blank lines are skipped. Words are separated by single spaces, so that each caption is one line
    of captions.txt.

    Raises:
        UserError: If the file is missing, empty, of another kind or not UTF-8, the caption is
            blank, or an option of a line is not valid.
    """
    path = Path(given[:4096])
    kind = path.suffix.lower()
    if kind != ".txt" and kind not in TABLES and (kind in OTHER_FILES or os.path.isfile(given)):
        raise UserError(
            f"--CAPTIONS {given} is a file, but captions are read from .txt files and tables "
            f"({', '.join(TABLES)}) only; write one caption per line into a .txt file"
        )
    if kind == ".txt":
        captions = list(_of_lines(path))
    elif kind in TABLES:
        captions = list(_of_rows(path))
    else:
        captions = [Caption(text)] if (text := _one_line(given)) else []
    if not captions:
        file = kind == ".txt" or kind in TABLES
        where = f"{given} has no captions" if file else "is blank"
        raise UserError(f"--CAPTIONS {where}; give a caption or a .txt file with one per line")
    return captions


def _of_lines(path: Path) -> Iterator[Caption]:
    for number, line in enumerate(read_lines(path), 1):
        begun = OWN.search(line)
        text, own = (line[: begun.start()], line[begun.end() :]) if begun else (line, "")
        if _one_line(line):
            where = f"{path}, line {number}"
            if not _one_line(text) or OWN.match(f" {line.lstrip()}"):
                raise UserError(f"{where}: it has options but no caption: {line.strip()[:80]!r}")
            yield Caption(_one_line(text), _parsed(_split(own, where), where) if own else {})


def _of_rows(path: Path) -> Iterator[Caption]:
    from minimagen.data.sources.table import csv_rows, read_table  # pyarrow takes its time

    strict = {  # a quote that is not closed is a mistake
        ".csv": partial(csv_rows, strict=True),
        ".tsv": partial(csv_rows, delimiters="\t", strict=True),
    }
    for where, row in read_table(path, strict.get(path.suffix.lower())):
        named = [key for key in row if str(key).lower() in CAPTION_COLUMNS]
        if len(named) != 1:
            columns = ", ".join(CAPTION_COLUMNS)
            raise UserError(f"{where}: give the caption as one of {columns}; it has {list(row)}")
        caption = row.pop(named[0])
        if not isinstance(caption, str):
            raise UserError(f"{where}: the caption is {caption!r}; give text")
        flags = [
            f"--{key}={_typed(value)}" for key, value in row.items() if value not in (None, "")
        ]
        if _one_line(caption):
            yield Caption(_one_line(caption), _parsed(flags, where))


def _parsed(flags: list[str], where: str) -> dict[str, Any]:
    """Return the options that a line sets, by name."""
    spelled = []
    for flag in flags:
        name, equals, value = flag.partition("=")
        key = name[2:].replace("-", "_").upper()
        long = ALIASES.get(key) or (SHORT.get(name[2:]) if name.startswith("--") else None)
        spelled.append(f"--{long}{equals}{value}" if long else flag)
    try:
        values = Parser(where, "", "", {"of a caption": PER_CAPTION}).parse(spelled)
    except UserError as error:
        message = str(error).removesuffix(f" (see {where} --help)")
        names = ", ".join(option.name.lower() for option in PER_CAPTION)
        raise UserError(f"{where}: {message} (a line may set {names})") from None
    return {name: value for name, value in vars(values).items() if value is not None}


def _split(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{where}: {str(error).lower()} in {text[:80]!r}") from None


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())
