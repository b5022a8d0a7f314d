"""Whatever a picture file holds, it is a picture or one reason; programs are never started."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minimagen.data.images.decoding import FORMATS, BadPictureError, load_rgb

# Pillow warns of what it finds strange in a file; the file is then read or refused all the same.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


def _encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, kind, **({"exif": exif} if kind == "JPEG" else {}))
    return buffer.getvalue()


WHOLE = {kind: _encoded(kind) for kind in FORMATS}


@settings(max_examples=600, deadline=None)
@given(
    kind=st.sampled_from(FORMATS),
    damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 1 << 16),
    noise=st.binary(max_size=20),
)
def test_a_damaged_picture_is_a_picture_or_one_reason(
    kind: str, damage: list[tuple[int, int]], cut: int, noise: bytes
) -> None:
    content = bytearray(WHOLE[kind])
    for at, value in damage:
        # Half of the damage goes to the headers, where it does most.
        content[at % (len(content) if at % 2 else min(64, len(content)))] = value
    content = content[: cut % len(content)] + noise if cut % 4 == 0 else content
    try:
        picture = load_rgb(bytes(content), "picture", at_least=8)
    except BadPictureError as error:
        assert str(error).startswith("picture: ")
    else:
        assert picture.mode == "RGB" and picture.width > 0


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>", b"P6 1 1 255 abc"]
)
def test_kinds_that_are_not_read_are_refused(content: bytes) -> None:
    with pytest.raises(BadPictureError, match="not a picture"):
        load_rgb(content)
