"""From any picture file to uint8 RGB of the wanted size."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class BadPictureError(Exception):
    """A file that cannot be read as a picture; the message says why."""


def load_rgb(path: Path) -> Image.Image:
    """Read a picture of any common kind, upright, as 8-bit RGB.

    EXIF orientation is applied, transparency is composited over white, 16-bit greys are scaled,
    palettes, greys and CMYK are converted, and of an animation the first frame is taken.

    Args:
        path: an existing file.

    Returns:
        A picture in mode "RGB".

    Raises:
        BadPictureError: the file is no picture, is truncated, or is a decompression bomb.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise BadPictureError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise BadPictureError(f"{path}: {error}") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert any mode to RGB."""
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        # 16-bit greys; Pillow's own conversion would clip them at 255 instead of scaling.
        grey = (np.asarray(picture).astype(np.int64) // 257).clip(0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def centre_crop_resize(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Crop the middle to the wanted aspect ratio and resize it, bicubic and antialiased.

    Args:
        picture: mode "RGB".
        size: (height, width) in pixels.

    Returns:
        uint8 [height, width, 3].
    """
    height, width = size
    if (picture.height, picture.width) == size:
        return np.array(picture)
    scale = min(picture.width / width, picture.height / height)
    left, top = (picture.width - scale * width) / 2, (picture.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    return np.array(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))
