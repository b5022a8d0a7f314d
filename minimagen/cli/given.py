"""The images that are given to ``inference.py``: read, kept by name and digest, and checked."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from minimagen.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from minimagen.storage.metadata import Generation, Given, GivenAs

NEEDED: "dict[str, tuple[GivenAs, ...]]" = {
    "image to image": ("init_image",),
    "inpainting": ("init_image", "mask"),
    "upscale": ("upscale",),
}
"""The images that each kind of edit is made of."""


class GivenImage(NamedTuple):
    """A file that is given: decoded once, upright."""

    path: Path
    image: "Image.Image"
    kept: "Given"
    """Its name and digest."""


def read_given(arguments: argparse.Namespace) -> "dict[GivenAs, GivenImage]":
    """Return the images that are given, by the parameter that takes them.

    Raises:
        UserError: One is missing, no image, or too large.
    """
    from minimagen.data.sources.listing import printable
    from minimagen.storage.metadata import Given

    paths: dict[GivenAs, Path | None] = {
        "init_image": arguments.INIT_IMAGE,
        "mask": arguments.MASK,
        "upscale": arguments.UPSCALE,
    }
    found: dict[GivenAs, GivenImage] = {}
    for name, path in paths.items():
        if path is not None:
            image = image_of(path)
            found[name] = GivenImage(path, image, Given.of(printable(path.name), image))
    return found


def take_up(
    arguments: argparse.Namespace, made: "Generation", given: "Mapping[GivenAs, GivenImage]"
) -> None:
    """Set the options of the edit that ``--FROM_IMAGE`` was made by.

    Args:
        arguments: They are changed.
        made: How it was made.
        given: The images of the edit, see ``read_given``.

    Raises:
        UserError: Images are missing, others are given, or ``made`` does not say which they were.
    """
    source = arguments.FROM_IMAGE
    needed = () if made.edit is None else NEEDED[made.edit.kind]
    if set(needed) - made.given.keys():
        raise UserError(
            f"{source} was made of another image, and does not say of which; give that one as "
            "--INIT_IMAGE, with --CAPTIONS and --SEED"
        )
    missing = [name for name in needed if name not in given]
    if missing:
        flags = " ".join(f"--{name.upper()} {made.given[name].name!r}" for name in missing)
        raise UserError(f"{source} was made of another image: give that too, {flags}")
    for name, image in given.items():
        flag = f"--{name.upper()} {image.path}"
        if name not in needed:
            raise UserError(f"{source} was made without such an image; leave out {flag}")
        if image.kept.sha256 != made.given[name].sha256:
            raise UserError(
                f"{flag} has other pixels than {made.given[name].name!r}, of which {source} was "
                "made; give that file"
            )
    if made.edit is not None:
        arguments.STRENGTH = arguments.STRENGTH or made.edit.strength
        arguments.RESAMPLE = made.edit.resample or 1
        arguments.START_STAGE = made.first
        arguments.ASPECT_RATIO = arguments.ASPECT_RATIO or made.aspect_ratio


def image_of(path: Path) -> "Image.Image":
    """Return the image of a file.

    Raises:
        UserError: It is missing, no image, or too large.
    """
    from PIL import ImageOps

    from minimagen.data.images.decoding import open_image
    from minimagen.editing import LARGEST
    from minimagen.storage.metadata import explained

    with explained(path), open_image(path) as image:
        if max(image.size) > LARGEST:
            raise UserError(
                f"{path} is {image.width} x {image.height} pixels; give an image of at most "
                f"{LARGEST} x {LARGEST}"
            )
        return ImageOps.exif_transpose(image).copy()
