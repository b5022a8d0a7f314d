"""From any image file to uint8 RGB of the wanted size."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, UnidentifiedImageError

from minimagen.config import Size
from minimagen.config.data import CENTER
from minimagen.data.dataset import BadSampleError
from minimagen.storage.image_formats import DAMAGE, FORMATS, REFUSED

ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF's tag, and its value that means nothing is to be done
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that exchange height and width
ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp"}  # where the header of a PNG may hold it
PNG = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks without influence on the pixels ...
PNG_ORIENTED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # ... but for these


class BadImageError(BadSampleError):
    """A file that cannot be read as an image; the message says why."""


def open_image(source: Path | bytes) -> Image.Image:
    """Open an image without decoding it; raises `REFUSED`."""
    if isinstance(source, bytes):
        image = Image.open(io.BytesIO(_without_text(source)), "r", FORMATS)
    else:
        try:
            image = Image.open(source, "r", FORMATS)
        except ValueError:  # perhaps the text of a PNG
            return open_image(source.read_bytes())
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} is more than {limit} pixels")
    return image


def _without_text(content: bytes) -> bytes:
    """Drop the texts and the color profile of a PNG: Pillow refuses images whose texts are long."""
    if not content.startswith(PNG):
        return content
    kept, at = [PNG], len(PNG)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind not in PNG_TEXT or content.startswith(PNG_ORIENTED, at + 8):
            kept.append(content[at : at + length + 12])
        at += length + 12
    return b"".join(kept)


def upright_size(source: Path | bytes) -> Size:
    """Return (height, width) from the header, in the camera's orientation; raises `REFUSED`."""
    with open_image(source) as image:
        # Pillow decodes a whole PNG to look for an orientation behind its pixels
        said = image.format != "PNG" or not ORIENTED.isdisjoint(image.info)
        turned = said and _orientation(image) in ON_ITS_SIDE
        return (image.width, image.height) if turned else (image.height, image.width)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where none can be found."""
    try:
        value = _orientation_tag(image.info.get("exif", b"")) or image.getexif().get(ORIENTATION)
    except DAMAGE:
        return UPRIGHT
    return value if isinstance(value, int) and value in TURNS else UPRIGHT


def _orientation_tag(exif: bytes) -> int | None:
    """Look for the orientation in an EXIF block; Pillow stops at the first tag that is damaged."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
        if tag == ORIENTATION:
            return int(value)
    return None


def load_rgb(source: Path | bytes, name: str = "", at_least: int | None = None) -> Image.Image:
    """Read an image of any common kind, upright, in mode "RGB".

    EXIF orientation is applied, transparency is composited over white, 16-bit grays are scaled,
    palettes, grays and CMYK are converted, and of an animation the first frame is taken. Other
    metadata is not looked at, however damaged or large.

    Args:
        source: an existing file, or its content.
        name: what messages call it; the file's path by default.
        at_least: a side in pixels that is enough; large JPEGs are then decoded at a reduced size
            not below it, which is several times faster.

    Raises:
        BadImageError: the file is no image, is truncated, or is a decompression bomb.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    try:
        with open_image(source) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            turn = TURNS.get(_orientation(image))
            return to_rgb(image if turn is None else image.transpose(turn))
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise BadImageError(f"{name}: not an image ({kinds} are read)") from None
    except REFUSED as error:
        raise BadImageError(f"{name}: {error}") from error


def to_rgb(image: Image.Image, ground: str = "white") -> Image.Image:
    """Return an image in RGB: 16 bits scaled to 8, transparency on a ground of one color.

    Raises:
        ValueError: Its pixels are floating-point numbers.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grays, which Pillow itself would clip at 255
        gray = (np.asarray(image).astype(np.int64) // 257).clip(0, 255)
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, ground)
        return Image.alpha_composite(below, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def crop_resize(
    image: Image.Image, size: Size, place: tuple[float, float] = (0.5, 0.5)
) -> np.ndarray:
    """Cut out the largest box of the wanted aspect ratio and resize it, bicubic, antialiased.

    Args:
        image: mode "RGB".
        size: (height, width) in pixels of the result, uint8 [height, width, 3].
        place: of the box, (down, right) from 0 to 1; (0.5, 0.5) is the middle.
    """
    height, width = size
    if (image.height, image.width) == size:
        return np.array(image)
    scale = min(image.width / width, image.height / height)
    top = place[0] * (image.height - scale * height)
    left = place[1] * (image.width - scale * width)
    box = (left, top, left + scale * width, top + scale * height)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


@dataclass(frozen=True)
class Framing:
    """How an image becomes a sample's pixels."""

    size: Size = (64, 64)  # (height, width) in pixels
    crop: str = CENTER  # or another of ``Crop`` in training
    flip: bool = False  # half of the images in training, drawn at random
    buckets: tuple[Size, ...] = ()  # each image gets the nearest of them instead of ``size``

    def place(self, rng: Random | None) -> tuple[float, float]:
        """Return where to crop: the middle without ``rng``."""
        if rng is None or self.crop == CENTER:
            return 0.5, 0.5
        return rng.random(), rng.random()

    def flipped(self, image: np.ndarray, rng: Random | None) -> np.ndarray:
        """Return the image, mirrored or not."""
        if rng is None or not self.flip or rng.random() < 0.5:
            return image
        return image[:, ::-1]
