"""Whatever an image file holds, it is an image or one reason; programs are never started."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from minimagen.data.images.decoding import FORMATS, BadImageError, load_rgb, upright_size

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
def test_a_damaged_image_is_an_image_or_one_reason(
    kind: str, damage: list[tuple[int, int]], cut: int, noise: bytes
) -> None:
    content = bytearray(WHOLE[kind])
    for at, value in damage:
        # Half of the damage goes to the headers, where it does most.
        content[at % (len(content) if at % 2 else min(64, len(content)))] = value
    content = content[: cut % len(content)] + noise if cut % 4 == 0 else content
    try:
        image = load_rgb(bytes(content), "image", at_least=8)
    except BadImageError as error:
        assert str(error).startswith("image: ")
    else:
        assert image.mode == "RGB" and image.width > 0


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>", b"P6 1 1 255 abc"]
)
def test_kinds_that_are_not_read_are_refused(content: bytes) -> None:
    with pytest.raises(BadImageError, match="not an image"):
        load_rgb(content)


CORNERS = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def _saved(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(CORNERS).save(buffer, kind, **options)
    return buffer.getvalue()


def _exif(*tags: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block of (tag, type, count, four bytes of value) as it would stand in a file."""
    entries = b"".join(struct.pack("<HHI4s", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(64)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_that_of_pillow(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    content = _saved("PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(load_rgb(content), np.array(expected))
    assert upright_size(content) == (expected.height, expected.width)


@settings(max_examples=200, deadline=None)
@given(
    tag=st.integers(0x0100, 0x0132).filter(lambda tag: tag != 0x0112) | st.just(0x8769),
    kind=st.integers(0, 14),
    count=st.integers(0, 9),
    value=st.binary(min_size=4, max_size=4),
)
def test_an_exif_tag_of_any_type_and_value_changes_no_pixel(
    tag: int, kind: int, count: int, value: bytes
) -> None:
    turned = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
    content = _saved("PNG", exif=_exif(turned, (tag, kind, count, value)))
    assert np.array_equal(load_rgb(content), np.rot90(CORNERS, -1))
    assert upright_size(content) == (6, 4)


@given(block=st.binary(max_size=60))
def test_an_exif_block_that_is_none_leaves_the_image_as_it_is(block: bytes) -> None:
    content = _saved("PNG", exif=block or b"x")
    assert np.array_equal(load_rgb(content), CORNERS)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


LONG = bytes(2**21)
CHUNKS = {
    "tEXt": b"Comment\0" + bytes(2**26 + 1),
    "zTXt": b"Comment\0\0" + zlib.compress(LONG),
    "iTXt": b"Comment\0\1\0\0\0" + zlib.compress(LONG),
    "iCCP": b"profile\0\0" + zlib.compress(LONG),
}


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_long_texts_of_a_png_cost_nothing_but_themselves(
    kind: str, place: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = _saved("PNG", exif=exif)
    at = whole.index(b"IDAT" if place == "before" else b"IEND") - 4
    content = whole[:at] + _chunk(kind.encode(), CHUNKS[kind]) + whole[at:]
    assert np.array_equal(load_rgb(content), np.rot90(CORNERS, -1))
    (tmp_path / "a.png").write_bytes(content)
    assert upright_size(content) == upright_size(tmp_path / "a.png") == (6, 4)


@pytest.mark.parametrize("keyword", ["XML:com.adobe.xmp", "Raw profile type exif"])
def test_an_orientation_in_the_texts_of_a_png_is_applied(keyword: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if keyword.startswith("XML"):
        info.add_itxt(keyword, '<x tiff:Orientation="6"/>')
    else:
        block = b"Exif\0\0" + _exif((0x0112, 3, 1, struct.pack("<HH", 6, 0)))
        info.add_text(keyword, f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    assert np.array_equal(load_rgb(_saved("PNG", pnginfo=info)), np.rot90(CORNERS, -1))
