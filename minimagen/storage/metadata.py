"""What an image carries of how it was made: the text that other programs read, and exact JSON."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import Field, model_validator

import minimagen
from minimagen.checked import Config, PositiveInt
from minimagen.errors import UserError, first_line
from minimagen.storage.files import replacing
from minimagen.storage.image_formats import FORMATS, REFUSED

TEXT, EXACT = "parameters", "minimagen"
"""The text chunks: what AUTOMATIC1111's page began and others read, and our own."""


DESCRIPTION = 0x010E  # of EXIF
LARGEST_BATCH = 65_536  # images, and tokens: what a file says is not believed beyond


class Place(Config):
    """Where in its batch an image was sampled: the same shapes give the same bits."""

    size: Annotated[PositiveInt, Field(le=LARGEST_BATCH)] = 1
    """Images of the batch."""
    index: Annotated[int, Field(ge=0)] = 0
    """Which of them it is, from 0."""
    tokens: Annotated[int, Field(ge=0, le=LARGEST_BATCH)] = 0
    """Tokens that the captions were padded to."""

    @model_validator(mode="after")
    def _index_is_inside(self) -> "Place":
        if self.index >= self.size:
            raise ValueError(f"index {self.index} is not inside a batch of {self.size}")
        return self


GivenAs = Literal["init_image", "mask", "upscale"]
"""The parameters that take an image."""


class Given(Config):
    """An image that was given, as its file's name and pixels: not its folder."""

    name: str
    """Of its file."""
    sha256: str
    """Of its mode, size and pixels, upright; transparency counts, other text in the file not."""

    @classmethod
    def of(cls, name: str, image: Image.Image) -> "Given":
        """Return what is kept of an image, the file's ``name`` without its folder."""
        colors = image.has_transparency_data or image.mode == "P"
        pixels = image.convert("RGBA") if colors else image
        head = f"{pixels.mode} {pixels.width} {pixels.height} ".encode()
        digest = sha256(head + pixels.tobytes()).hexdigest()
        return cls(name=name, sha256=digest)


class Edited(Config):
    """What was done to a given image."""

    kind: Literal["image to image", "inpainting", "upscale"]
    """Of ``minimagen.editing``."""
    strength: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """The time that the image was noised to; an upscale has none."""
    resample: PositiveInt | None = None
    """How often each step was taken; an upscale does not say."""


Axis = tuple[str, Annotated[tuple[str, ...], Field(min_length=1)]]
"""A setting and its values, as they were typed."""
WholeKind = Literal["interpolate", "film", "stages_sheet", "sweep"]


class Whole(Config):
    """A strip or a sheet of images that were made together."""

    kind: WholeKind
    """The flag that made it."""
    texts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Its captions."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """The two that an interpolation goes between; else there is one, or one that is counted on."""
    frames: Annotated[int, Field(ge=2, le=1000)] = 9
    """Images of an interpolation."""
    sweep: tuple[Axis, ...] = ()
    """What a sweep goes through."""

    @model_validator(mode="after")
    def _only_a_sweep_has_settings(self) -> "Whole":
        if (self.kind == "sweep") != bool(self.sweep):
            raise ValueError(f"{self.kind} with {len(self.sweep)} settings that change")
        return self


class Generation(Config):
    """How an image was made. No paths, and nothing of the user or the machine."""

    text: str
    """Its caption."""
    negative: str | None = None
    """What guidance leads away from, instead of from no caption."""
    seed: Annotated[int, Field(ge=0)]
    """Of all its noise."""
    size: tuple[PositiveInt, PositiveInt]
    """(width, height) in px; of a strip or sheet, those of an image on it."""
    model: str = ""
    """SHA-256 of the weights' tensors; empty where it is unknown."""
    weights: tuple[str | int, ...] = ("final",)
    """Which averaged weights: of all stages, or one each."""
    first: Annotated[int, Field(ge=0)] = 0
    """The stage that sampling began with."""
    stages: tuple[dict[str, Any], ...]
    """The sampling settings of each stage that ran."""
    aspect_ratio: float | None = None
    """Width : height that was asked for, where it is not the cascade's own."""
    precision: str = "auto"
    """What the networks computed in: auto, fp32 or bf16."""
    batch: Place = Place()
    edit: Edited | None = None
    """What was done to a given image, where there was one."""
    given: dict[GivenAs, Given] = {}
    """That image and its mask, by the parameter that took them, where they were files."""
    whole: Whole | None = None
    """The strip or sheet, where it is one; of a sweep, the rest is of its first image."""
    version: str = minimagen.__version__
    """Of this program."""

    @model_validator(mode="after")
    def _only_an_upscale_begins_later(self) -> "Generation":
        enlarges = self.edit is not None and self.edit.kind == "upscale"
        if enlarges != (self.first > 0):
            raise ValueError(f"first is {self.first}: only an upscale begins later than with 0")
        return self


def parameters_text(generation: Generation) -> str:
    """Return the text that readers of AUTOMATIC1111's images know: captions, then settings."""
    negative = [f"Negative prompt: {generation.negative}"] if generation.negative else []
    pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in _pairs(generation).items())
    return "\n".join([generation.text, *negative, pairs])


def _pairs(generation: Generation) -> dict[str, str]:
    stages, width, height = generation.stages, *generation.size
    first = stages[0] if stages else {}
    values = {
        "Steps": first.get("timesteps"),
        "Sampler": first.get("sampler"),
        "CFG scale": first.get("guidance_scale"),
        "Seed": generation.seed,
        "Size": f"{width}x{height}",
        "Model hash": generation.model[:10] or None,
        "Denoising strength": generation.edit and generation.edit.strength,
        "Edit": generation.edit and generation.edit.kind,
    }
    for flag, image in generation.given.items():
        values[flag.replace("_", " ").capitalize()] = image.name
    if (whole := generation.whole) is not None:
        values["Made as"] = whole.kind
        values["Captions"] = " | ".join(whole.texts) if len(whole.texts) > 1 else None
        swept = (f"{name}={','.join(texts)}" for name, texts in whole.sweep)
        values["Sweep"] = " ".join(swept) or None
        values["Seeds"] = ",".join(map(str, whole.seeds)) or None
    several = {
        "Stage steps": "timesteps",
        "Stage CFG": "guidance_scale",
        "SR noise level": "aug_level",
    }
    for name, key in several.items():
        if len(stages) > 1 and any(key in stage for stage in stages):
            values[name] = ",".join(
                f"{stage.get(key, '-'):g}" if isinstance(stage.get(key), int | float) else "-"
                for stage in stages
            )
    values["Version"] = f"minimagen-cascade {generation.version}"
    return {key: _plain(value) for key, value in values.items() if value is not None}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quoted(value: str) -> str:
    """Return a value in JSON's quotes where it holds what separates values."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',:\n"') else value


def save_png(path: Path, image: Image.Image, generation: Generation | None = None) -> None:
    """Write an RGB image as PNG, all of it or nothing, with how it was made where that is given.

    Raises:
        UserError: If it cannot be written (disk full, no permission).
    """
    text = PngInfo()
    if generation is not None:
        text.add_itxt(TEXT, parameters_text(generation))
        text.add_itxt(EXACT, generation.model_dump_json())
    with replacing(path) as part:
        image.save(part, format="PNG", pnginfo=text)


def animation_keywords(kind: str, generation: Generation) -> dict[str, Any]:
    """Return what Pillow takes to keep exact JSON in an animation: a GIF's comment, WebP's EXIF."""
    text = f"{EXACT} {json.dumps(generation.model_dump(mode='json'))}"  # ASCII, as EXIF wants it
    if kind == "gif":
        return {"comment": text}
    exif = Image.Exif()
    exif[DESCRIPTION] = text
    return {"exif": exif}


def read_text(path: str | Path) -> dict[str, str]:
    """Return the text chunks of an image, of an animation the exact JSON; empty without any.

    Raises:
        UserError: It is no image, or is unreadable.
    """
    with explained(path), Image.open(path, formats=FORMATS) as image:
        found = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
        comment = image.info.get("comment", b"")  # bytes, of a GIF
        described = image.getexif().get(DESCRIPTION) if image.format == "WEBP" else comment
        text = described.decode("utf-8", "replace") if isinstance(described, bytes) else described
        name, _, exact = str(text or "").partition(" ")
        return found | ({EXACT: exact} if name == EXACT else {})


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Say in one line what is wrong with an image file that is read inside the ``with``.

    Raises:
        UserError: It is missing, no image, or unreadable.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except REFUSED as error:
        raise UserError(f"{path} is not an image that can be read: {first_line(error)}") from None


def read_generation(path: str | Path) -> Generation:
    """Return how an image was made.

    Raises:
        UserError: It is no image, or does not carry that.
    """
    text = read_text(path).get(EXACT)
    if text is None:
        raise UserError(
            f"{path} does not say how it was made: give a file of inference.py or of the page, as "
            "it was written (not edited, not sent through a program that drops its text); instead "
            "of grid.png one of its images, instead of a frame the strip or animation"
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{path}: its text {EXACT!r} is not JSON") from None
    return Generation.read(values, f"{path}: its text {EXACT!r}")
