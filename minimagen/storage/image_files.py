"""Pictures with their captions on one sheet, every stage of the cascade side by side."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from minimagen.storage.files import replace

MARGIN, LINE, FONT_SIZE = 4, 12, 10
MAX_LINES = 6  # of a caption; a longer one ends in [...]


def contact_sheet(
    captions: Sequence[str],
    stages: Sequence[Sequence[Image.Image]],
    columns: int = 4,
    side: int = 128,
) -> Image.Image:
    """Return a sheet with one cell per caption: its pictures from every stage, then its words.

    Args:
        captions: One per cell.
        stages: For every stage one picture per caption; small ones are enlarged without smoothing.
        columns: Cells in a row.
        side: Height of a picture on the sheet, px; larger pictures keep their own size.
    """
    height = max([side, *(pictures[0].height for pictures in stages if pictures)])
    shapes = [pictures[0].width * height // pictures[0].height for pictures in stages if pictures]
    width = sum(shapes) + MARGIN * (len(shapes) - 1)
    texts = [_wrap(caption, max(8, width // 6)) for caption in captions]
    cell_w = width + 2 * MARGIN
    cell_h = height + max(len(lines) for lines in texts) * LINE + 2 * MARGIN
    rows = math.ceil(len(captions) / columns)
    sheet = Image.new("RGB", (min(columns, len(captions)) * cell_w, rows * cell_h), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for i, lines in enumerate(texts):
        x, y = (i % columns) * cell_w + MARGIN, (i // columns) * cell_h + MARGIN
        for pictures, shown_width in zip(stages, shapes, strict=True):
            filter_ = Image.Resampling.NEAREST
            sheet.paste(pictures[i].resize((shown_width, height), filter_), (x, y))
            x += shown_width + MARGIN
        x = (i % columns) * cell_w + MARGIN
        draw.multiline_text((x, y + height + 1), "\n".join(lines), "black", font, spacing=1)
    return sheet


def _wrap(caption: str, width: int) -> list[str]:
    return textwrap.wrap(caption, width, max_lines=MAX_LINES) or [""]


def save_sheet(path: Path, sheet: Image.Image) -> None:
    """Write a sheet as PNG, making its folder; a UserError says why it cannot be written."""
    replace(path, lambda part: sheet.save(part, format="PNG"))
