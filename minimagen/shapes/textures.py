"""Surfaces behind digits: ten generated materials, or photographs of real ones from a file."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
from PIL import Image

from minimagen.draws import derive_seed
from minimagen.errors import UserError
from minimagen.shapes.splits import split_by_hash

SIDE = 128  # px of a tile
SMALLEST_CROP = 80  # px of the square that is cut out of a tile
TILES = {"train": range(8), "tune": range(8, 10), "heldout": range(10, 12)}  # of a material

Field = np.ndarray  # float [SIDE, SIDE]
Tile = np.ndarray  # uint8 [SIDE, SIDE, 3]


class Textures(Protocol):
    """Materials, and tiles of them that differ from split to split."""

    @property
    def materials(self) -> tuple[str, ...]:
        """Return their names."""
        ...

    def tile(self, material: str, split: str, rng: Random) -> np.ndarray:
        """Draw a tile, uint8 [h, w, 3]."""
        ...


def crop(tile: np.ndarray, rng: Random, size: int) -> Image.Image:
    """Return a random square of a tile, resized to ``size`` px."""
    longest = min(tile.shape[:2])
    side = rng.randint(min(SMALLEST_CROP, longest), longest)
    top, left = (rng.randint(0, length - side) for length in tile.shape[:2])
    part = Image.fromarray(tile[top : top + side, left : left + side])
    return part.resize((size, size), Image.Resampling.LANCZOS)


class GeneratedTextures:
    """Ten materials made of noise and patterns; twelve tiles of each."""

    @property
    def materials(self) -> tuple[str, ...]:
        """Return their names."""
        return tuple(_MATERIALS)

    def tile(self, material: str, split: str, rng: Random) -> np.ndarray:
        """Return one of the split's tiles, uint8 [128, 128, 3]."""
        return _generated(material, rng.choice(TILES[split]))


class RealTextures:
    """Photographs from a parquet file with the columns ``image`` and ``text``, the material.

    The photographs of a material are divided among the splits. Where there are fewer than three,
    the first one is divided: its lower half is not trained on.

    Args:
        file: The parquet file.

    Raises:
        UserError: it is missing or no such file.
    """

    def __init__(self, file: str | Path) -> None:
        tiles: dict[str, list[np.ndarray]] = {}
        for image, material in read_images(file, "text", "RGB"):
            tiles.setdefault(material, []).append(image)
        self._tiles = {material: _divided(material, images) for material, images in tiles.items()}

    @property
    def materials(self) -> tuple[str, ...]:
        """Return their names, sorted."""
        return tuple(sorted(self._tiles))

    def tile(self, material: str, split: str, rng: Random) -> np.ndarray:
        """Return one of the split's tiles, uint8 [h, w, 3]."""
        return rng.choice(self._tiles[material][split])


def _divided(material: str, images: Sequence[np.ndarray]) -> Mapping[str, list[np.ndarray]]:
    if len(images) >= 10:
        found: dict[str, list[np.ndarray]] = {split: [] for split in TILES}
        for i, image in enumerate(images):
            found[split_by_hash(f"{material} {i}")].append(image)
        if all(found.values()):
            return found
    if len(images) >= 3:
        return {"train": [*images[:-2]], "tune": [images[-2]], "heldout": [images[-1]]}
    upper, lower = ([part] for part in np.array_split(images[0], 2))
    return {"train": [*upper, *images[1:]], "tune": lower, "heldout": lower}


def read_images(file: str | Path, column: str, mode: str) -> list[tuple[np.ndarray, str]]:
    """Return the images of a parquet file in a ``mode`` of Pillow's, each with a value of a column.

    Raises:
        UserError: it is missing or empty, has no such columns, or an image is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file, columns=["image", column])
        rows = zip(table["image"].to_pylist(), table[column].to_pylist(), strict=True)
        found = [(_decoded(image["bytes"], mode), str(value)) for image, value in rows]
    except (OSError, pyarrow.ArrowException, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"{file} is no parquet file with the columns image and {column} ({why[:200]})"
        ) from None
    if not found:
        raise UserError(f"{file} has no images")
    return found


def _decoded(content: bytes, mode: str) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert(mode))


@lru_cache(maxsize=256)
def _generated(material: str, number: int) -> Tile:
    rng = np.random.default_rng(derive_seed("texture", material, number))
    return np.clip(_MATERIALS[material](rng), 0, 255).round().astype(np.uint8)


def _noise(rng: np.random.Generator, across: int, down: int | None = None) -> Field:
    """Return smooth noise in [0, 1] with so many cells across and down the tile."""
    grid = rng.random((down or across, across), dtype=np.float32)
    field = np.asarray(Image.fromarray(grid).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.clip(field, 0.0, 1.0)


def _fractal(rng: np.random.Generator, across: int, octaves: int = 4) -> Field:
    """Return noise of several scales in about [0, 1]."""
    fields = [_noise(rng, across * 2**i) / 2**i for i in range(octaves)]
    return sum(fields) / sum(2.0**-i for i in range(octaves))


def _blend(field: Field, dark: Sequence[int], light: Sequence[int]) -> np.ndarray:
    """Return the color ``dark`` where ``field`` is 0 and ``light`` where it is 1."""
    field = np.clip(field, 0.0, 1.0)[..., None]
    return (1 - field) * np.array(dark) + field * np.array(light)


def _places() -> tuple[Field, Field]:
    place = (np.arange(SIDE) + 0.5) / SIDE
    return np.broadcast_to(place[None, :], (SIDE, SIDE)), np.broadcast_to(
        place[:, None], (SIDE, SIDE)
    )


def _bricks(rng: np.random.Generator) -> np.ndarray:
    x, y = _places()
    rows = 7
    row = np.floor(y * rows + rng.random())
    column = x * 3.5 + 0.5 * (row % 2) + rng.random()
    inside = (((y * rows) % 1) > 0.14) & ((column % 1) > 0.07)
    shade = rng.random((64, 64))[row.astype(int) % 64, np.floor(column).astype(int) % 64]
    shade = 0.6 * shade + 0.4 * _noise(rng, 32)
    return np.where(inside[..., None], _blend(shade, (120, 50, 35), (190, 95, 70)), (200, 195, 185))


def _cobblestones(rng: np.random.Generator) -> np.ndarray:
    x, y = _places()
    grid = np.stack(np.meshgrid(np.arange(-1, 8), np.arange(-1, 8)), -1).reshape(-1, 2)
    centers = (grid + rng.uniform(0.15, 0.85, grid.shape)) / 6.5
    distances = np.hypot(x[..., None] - centers[:, 0], y[..., None] - centers[:, 1])
    nearest = np.sort(np.partition(distances, 1, axis=-1)[..., :2], axis=-1)
    edge = np.clip((nearest[..., 1] - nearest[..., 0]) * 22, 0, 1)
    shade = rng.random(len(centers))[distances.argmin(-1)]
    return _blend(
        edge * (0.55 + 0.35 * shade + 0.1 * _noise(rng, 40)), (45, 45, 50), (175, 175, 180)
    )


def _wood(rng: np.random.Generator) -> np.ndarray:
    x, _ = _places()
    rings = np.sin(2 * np.pi * (x * 7 + 1.6 * _noise(rng, 3, 2)))
    fibers = _noise(rng, 64, 4)
    return _blend(0.5 + 0.3 * rings + 0.4 * (fibers - 0.5), (105, 62, 30), (205, 150, 95))


def _grass(rng: np.random.Generator) -> np.ndarray:
    blades = np.maximum(_noise(rng, 64, 12), np.roll(_noise(rng, 48, 14), 9, 0))
    return _blend(blades**1.5 * 0.9 + 0.1 * _noise(rng, 5), (18, 60, 12), (120, 185, 55))


def _sand(rng: np.random.Generator) -> np.ndarray:
    _, y = _places()
    dunes = 0.5 + 0.5 * np.sin(2 * np.pi * (y * 5 + _noise(rng, 4)))
    return _blend(0.5 * dunes + 0.5 * rng.random((SIDE, SIDE)), (190, 160, 105), (240, 220, 170))


def _water(rng: np.random.Generator) -> np.ndarray:
    x, y = _places()
    bend = _fractal(rng, 5, 2)
    ripples = np.abs(np.sin(np.pi * (6 * y + 2.5 * bend))) * np.abs(
        np.sin(np.pi * (4 * x + 3 * bend))
    )
    return _blend(ripples**0.7, (10, 60, 120), (90, 190, 215))


def _clouds(rng: np.random.Generator) -> np.ndarray:
    return _blend((_fractal(rng, 4) - 0.38) * 4, (95, 150, 225), (250, 250, 255))


def _marble(rng: np.random.Generator) -> np.ndarray:
    x, y = _places()
    veins = np.abs(np.sin(np.pi * (2.5 * x + 2.5 * y + 4 * _fractal(rng, 4))))
    return _blend(veins**0.35, (70, 75, 85), (238, 236, 232))


def _lava(rng: np.random.Generator) -> np.ndarray:
    ridges = 1 - np.abs(2 * _fractal(rng, 6, 3) - 1)
    return _blend((ridges - 0.75) * 5, (35, 20, 20), (255, 120, 10))


def _fabric(rng: np.random.Generator) -> np.ndarray:
    x, y = _places()
    over = ((np.floor(x * 18) + np.floor(y * 18)) % 2).astype(bool)
    threads = np.where(over, np.sin(np.pi * (x * 18 % 1)), np.sin(np.pi * (y * 18 % 1)))
    return _blend(threads * (0.75 + 0.25 * _noise(rng, 40)), (70, 25, 90), (175, 110, 200))


_MATERIALS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "bricks": _bricks,
    "cobblestones": _cobblestones,
    "wood": _wood,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "clouds": _clouds,
    "marble": _marble,
    "lava": _lava,
    "fabric": _fabric,
}
