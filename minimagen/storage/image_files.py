"""Images on disk: what inference writes, image by image, and contact sheets."""

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from minimagen.storage.files import cannot_write, read_lines, replacing
from minimagen.storage.metadata import Generation, save_png

MARGIN, LINE, FONT_SIZE = 4, 12, 10
MAX_LINES = 6  # of a caption; a longer one ends in [...]
SMALLEST, LARGEST = 128, 4096  # px: the height of an image on a sheet; about the sides of a sheet
GRID_IMAGES = 64  # on grid.png: the first ones


class ImageFolder:
    """``generated_images_<time>/``: each image is on disk, with its lines, once it is written.

    Args:
        path: The directory to write; one that has images is gone on with.
        training_directory: Where the weights came from, kept in a text file.
        metadata: Whether each PNG carries how it was made.

    Attributes:
        images: The folder of the PNG files.
        written: How many there are.
        size: (width, height) of the last one.
    """

    def __init__(self, path: Path, training_directory: Path, metadata: bool = True) -> None:
        self.path, self.images = path, path / "generated_images"
        self.size = (0, 0)
        self._training_directory, self._metadata = training_directory, metadata
        self._first: list[tuple[str, Image.Image]] = []
        self.written = self._kept()

    def _kept(self) -> int:
        """Return how many images are whole; lines of others, of a killed run, are dropped."""
        path = self.path / "images.jsonl"
        if not path.is_file():
            return 0
        lines = read_lines(path)[:-1]  # what follows the last line break was cut off
        rows = [json.loads(line) for line in lines]
        for name, kept in (("images.jsonl", lines), ("captions.txt", [r["text"] for r in rows])):
            with replacing(self.path / name) as part:
                part.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        for row in rows[:GRID_IMAGES]:
            with Image.open(self.images / row["file_name"]) as image:
                self._first.append((row["text"], image.convert("RGB")))
                self.size = image.size
        return len(rows)

    def write(self, image: Image.Image, generation: Generation) -> Path:
        """Write ``image_<i>.png``, then its line of captions.txt and images.jsonl; return its path.

        Raises:
            UserError: If it cannot be written (disk full, no permission).
        """
        path = self.images / f"image_{self.written}.png"
        row = {"file_name": path.name} | generation.model_dump(mode="json")
        if self.written == 0:
            self._append("imagen_training_directory.txt", str(self._training_directory))
        save_png(path, image, generation if self._metadata else None)
        self._append("captions.txt", " ".join(generation.text.split()) + "\n")
        self._append("images.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
        self.written, self.size = self.written + 1, image.size
        if self.written <= GRID_IMAGES:
            self._first.append((generation.text, image))
        return path

    @property
    def shown(self) -> int:
        """Return how many images the grid shows."""
        return len(self._first)

    def write_grid(self) -> Path:
        """Write ``grid.png`` with the first ``GRID_IMAGES`` images; return its path."""
        captions, images = zip(*self._first, strict=True)
        save_png(self.path / "grid.png", contact_sheet(captions, [images]))
        return self.path / "grid.png"

    def _append(self, name: str, text: str) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise cannot_write(self.path / name, error) from None


def contact_sheet(
    captions: Sequence[str],
    stages: Sequence[Sequence[Image.Image]],
    columns: int | None = None,
    headings: Sequence[str] = (),
) -> Image.Image:
    """Return a sheet, one cell per caption: its image from every stage, the caption.

    It has as many ``columns``; by default it is nearly square. ``headings``, one for each stage,
    stand above its images.

    The images of a stage are of one aspect ratio. Small ones are enlarged to ``SMALLEST`` px
    without smoothing; large ones are shrunk where the sides of the sheet, captions not counted,
    would be longer than ``LARGEST`` px.
    """
    firsts = [images[0] for images in stages]
    aspect_ratios = [image.width / image.height for image in firsts]
    longest = int(LARGEST / math.sqrt(len(captions) * sum(aspect_ratios)))
    height = max(1, min(longest, max(SMALLEST, *(image.height for image in firsts))))
    widths = [max(1, round(height * ratio)) for ratio in aspect_ratios]
    cell_width = sum(widths) + MARGIN * (len(widths) + 1)
    letters = max(8, cell_width // 6 - 1)
    texts = [textwrap.wrap(caption, letters, max_lines=MAX_LINES) for caption in captions]
    cell_height = height + max(1, *(len(lines) for lines in texts)) * LINE + 2 * MARGIN
    if columns is None:
        columns = round(math.sqrt(len(captions) * cell_height / cell_width))
    columns = min(max(1, columns), len(captions))
    rows = math.ceil(len(captions) / columns)
    top = LINE if headings else 0
    sheet = Image.new("RGB", (columns * cell_width, top + rows * cell_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for column in range(columns):
        x = column * cell_width + MARGIN
        for heading, width in zip(headings, widths, strict=False):
            draw.text((x, 2), heading, "black", font)
            x += width + MARGIN
    for i, lines in enumerate(texts):
        x, y = i % columns * cell_width + MARGIN, top + i // columns * cell_height + MARGIN
        draw.multiline_text((x, y + height + 1), "\n".join(lines), "black", font, spacing=1)
        for images, width in zip(stages, widths, strict=True):
            shrinks = images[i].height > height
            filter_ = Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST
            sheet.paste(images[i].resize((width, height), filter_), (x, y))
            x += width + MARGIN
    return sheet
