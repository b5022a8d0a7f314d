"""Frames on disk: animated GIF and WebP, and a strip of all of them."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from minimagen.storage.files import replacing
from minimagen.storage.image_files import SMALLEST
from minimagen.storage.metadata import Generation, animation_keywords, save_png

MILLISECONDS = 120  # that a frame is shown
LAST = 1200  # that the last one is


def save_animations(
    folder: Path, name: str, frames: Sequence[Image.Image], made: Generation | None = None
) -> list[Path]:
    """Write ``name`` as .gif and .webp, all frames as large as the largest; return the paths.

    Args:
        folder: Where to write.
        name: Of the files, without their endings.
        frames: Of any sizes.
        made: How they were made, kept in the files.

    Raises:
        UserError: If they cannot be written (disk full, no permission).
    """
    width, height = max(frame.size for frame in frames)
    scale = max(1, SMALLEST // height)
    size = width * scale, height * scale
    large = [frame.resize(size, Image.Resampling.NEAREST) for frame in frames]
    durations = [MILLISECONDS] * (len(frames) - 1) + [LAST]
    paths = []
    for kind in ("gif", "webp"):
        paths.append(folder / f"{name}.{kind}")
        with replacing(paths[-1]) as part:
            large[0].save(
                part,
                format=kind,
                save_all=True,
                append_images=large[1:],
                duration=durations,
                loop=0,
                **({"lossless": True} if kind == "webp" else {}),
                **({} if made is None else animation_keywords(kind, made)),
            )
    return paths


def save_strip(
    folder: Path, name: str, frames: Sequence[Image.Image], made: Generation | None = None
) -> Path:
    """Write all frames side by side, each as high as the largest; return the path.

    Args:
        folder: Where to write.
        name: Of the file, without its ending.
        frames: Of any sizes.
        made: How they were made, kept in the file.
    """
    height = max(SMALLEST, *(frame.height for frame in frames))
    widths = [round(frame.width * height / frame.height) for frame in frames]
    strip = Image.new("RGB", (sum(widths), height), "white")
    x = 0
    for frame, width in zip(frames, widths, strict=True):
        strip.paste(frame.resize((width, height), Image.Resampling.NEAREST), (x, 0))
        x += width
    path = folder / f"{name}.png"
    save_png(path, strip, made)
    return path
