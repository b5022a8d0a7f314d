"""From any picture file to uint8 RGB of the wanted size."""

import io
import itertools
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from minimagen.config import Size
from minimagen.config.sizes import nearest
from minimagen.data.dataset import BadSampleError

# Named, because Pillow's others include some that start programs (EPS) or fetch files.
Image.init()
WANTED = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
FORMATS: list[str] = [name for name in WANTED if name in Image.OPEN]
# What Pillow's decoders raise on damaged files, found by damaging files at random, 230,000 times.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError),
    *(RuntimeError, TypeError, OverflowError, KeyError),
)
CROPS = ("centre", "random")
ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF's tag, and its value that means nothing is to be done
ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp"}  # where the head of a PNG may hold it
ON_ITS_SIDE = (5, 6, 7, 8)  # its values that exchange height and width


class BadPictureError(BadSampleError):
    """A file that cannot be read as a picture; the message says why."""


def open_picture(source: Path | bytes) -> Image.Image:
    """Open a picture without decoding it.

    Raises:
        DAMAGE, Image.DecompressionBombError: it is no picture, damaged, or too large.
    """
    picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, "r", FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        raise ValueError(f"{picture.width} x {picture.height} is more than {limit} pixels")
    return picture


def upright_size(source: Path | bytes) -> Size:
    """Return (height, width) of a picture from its head, in the camera's orientation.

    Raises:
        DAMAGE, Image.DecompressionBombError: it is no picture, damaged, or too large.
    """
    with open_picture(source) as picture:
        # Pillow decodes a whole PNG to look for an orientation behind its pixels
        told = picture.format != "PNG" or not ORIENTED.isdisjoint(picture.info)
        turned = told and picture.getexif().get(ORIENTATION, UPRIGHT) in ON_ITS_SIDE
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def load_rgb(source: Path | bytes, name: str = "", at_least: int | None = None) -> Image.Image:
    """Read a picture of any common kind, upright, as 8-bit RGB.

    EXIF orientation is applied, transparency is composited over white, 16-bit greys are scaled,
    palettes, greys and CMYK are converted, and of an animation the first frame is taken.

    Args:
        source: an existing file, or its content.
        name: what messages call it; the file's path by default.
        at_least: a side in pixels that is enough; large JPEGs are then decoded at a reduced size
            not below it, which is several times faster.

    Returns:
        A picture in mode "RGB".

    Raises:
        BadPictureError: the file is no picture, is truncated, or is a decompression bomb.
    """
    name = name or ("the picture" if isinstance(source, bytes) else str(source))
    try:
        with open_picture(source) as picture:
            if at_least is not None:
                picture.draft(None, (at_least, at_least))
            picture.load()
            if picture.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT:  # exif_transpose copies
                return _to_rgb(picture)
            return _to_rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise BadPictureError(f"{name}: not a picture ({kinds} are read)") from None
    except (*DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPictureError(f"{name}: {error}") from error


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
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def crop_resize(
    picture: Image.Image, size: Size, place: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """Cut out the largest box of the wanted aspect ratio and resize it, bicubic, antialiased.

    Args:
        picture: mode "RGB".
        size: (height, width) in pixels.
        place: of the box, (down, right) from 0 to 1; (0.5, 0.5) is the middle.

    Returns:
        uint8 [height, width, 3].
    """
    height, width = size
    if (picture.height, picture.width) == size:
        return np.array(picture)
    scale = min(picture.width / width, picture.height / height)
    top = place[0] * (picture.height - scale * height)
    left = place[1] * (picture.width - scale * width)
    box = (left, top, left + scale * width, top + scale * height)
    return np.array(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))


@dataclass(frozen=True)
class Framing:
    """How a picture becomes a sample's pixels.

    Attributes:
        size: (height, width) in pixels.
        crop: "centre", or "random" in training.
        flip: mirror every second picture in training; captions that say left and right then lie.
        buckets: sizes of which each picture gets that of the nearest aspect ratio, instead of
            ``size``; none of them: all get ``size``.
    """

    size: Size = (64, 64)
    crop: str = "centre"
    flip: bool = False
    buckets: tuple[Size, ...] = ()

    @property
    def longest(self) -> int:
        """Return the longest side that a sample may have."""
        return max(itertools.chain(self.size, *self.buckets))

    def fitted(self, picture: Image.Image) -> "Framing":
        """Return the framing of this picture, which has one size."""
        if not self.buckets:
            return self
        size = nearest(self.buckets, picture.width / picture.height)
        return replace(self, size=size, buckets=())

    def place(self, rng: Random | None) -> tuple[float, float]:
        """Return where to crop: the middle without ``rng``."""
        if rng is None or self.crop == "centre":
            return 0.5, 0.5
        return rng.random(), rng.random()

    def is_fixed(self, picture: Image.Image) -> bool:
        """Tell whether every crop of this picture is the same."""
        height, width = self.size
        return self.crop == "centre" or picture.width * height == picture.height * width

    def enlarges(self, picture: Image.Image) -> bool:
        """Tell whether the picture is smaller than the samples."""
        return picture.height < self.size[0] or picture.width < self.size[1]

    def flipped(self, image: np.ndarray, rng: Random | None) -> np.ndarray:
        """Return the image, mirrored or not."""
        if rng is None or not self.flip or rng.random() < 0.5:
            return image
        return image[:, ::-1]
