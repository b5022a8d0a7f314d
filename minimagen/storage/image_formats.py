"""Which image files are opened, and what Pillow raises where they are damaged."""

import struct
import zlib

from PIL import Image

# Named, because Pillow's others include some that start programs (EPS) or fetch files.
Image.init()
WANTED = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
FORMATS: list[str] = [name for name in WANTED if name in Image.OPEN]
# What Pillow's decoders raise on damaged files, found by damaging files at random, 230,000 times.
DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError),
    *(RuntimeError, TypeError, OverflowError, KeyError, AttributeError),
)
REFUSED = (*DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning)
