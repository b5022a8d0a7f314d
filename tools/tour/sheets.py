"""Sheets of small images in rows and columns, with labels."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from minimagen.images import to_pil

GAP, LINE, LETTER = 6, 14, 6.2  # px: between images, of a line of a label, of a letter
FONT_SIZE = 11


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """Return ``image`` with its pixels as squares, as high as ``side``."""
    width = round(image.width * side / image.height)
    return image.convert("RGB").resize((width, side), Image.Resampling.NEAREST)


def images_of(tensor: Tensor) -> list[Image.Image]:
    """Return Pillow images of [b 3 h w] in model space; what lies outside [-1, 1] is clipped."""
    return to_pil(tensor.float().clamp(-1.0, 1.0))


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    names: Sequence[str] = (),
    side: int = 96,
) -> Image.Image:
    """Return a table of images: a label above each column, and one to the left of each row.

    Args:
        rows: As many images in each row as there are ``columns``.
        columns: Labels; a line break begins a new line.
        names: Of the rows; none by default.
        side: The height of every image, px.
    """
    top = LINE * max(label.count("\n") + 1 for label in columns) + GAP
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    left = round(longest * LETTER) + GAP
    cell = side + GAP
    page = Image.new("RGB", (left + len(columns) * cell, top + len(rows) * cell), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_SIZE)
    for i, label in enumerate(columns):
        x = left + i * cell + side / 2
        draw.multiline_text((x, 2), label, "black", font, anchor="ma", align="center", spacing=2)
    for j, row in enumerate(rows):
        y = top + j * cell
        if names:
            draw.multiline_text((GAP, y + side / 2), names[j], "black", font, anchor="lm")
        for i, image in enumerate(row):
            page.paste(enlarged(image, side), (left + i * cell, y))
    return page
