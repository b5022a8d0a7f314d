"""The real data sets of the benchmarks, with their parts: what is trained on, what is scored.

They lie in the folder that ``$MINIMAGEN_BENCHMARK_DATA`` names, ``../shared/data`` by default, and
are not part of the project. Validation images are split off the training part by `train.py`:
choices are made on them, and the final figures on images that had no part in any choice.
"""

import hashlib
import json
import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import ROOT
from minimagen.config import DataConfig
from minimagen.config.recipes import train_valid_frac
from minimagen.data.dataset import Dataset, IndexedDataset, Samples, count_of
from minimagen.data.open import load_dataset
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import replacing

SPLITS = ("test", "validation")
"""What is scored: images of which nothing was decided, or those that decide."""
MOST_VALIDATED = 0.15  # of the training data, where choices are made
STYLE = "{text}, {style} style"  # the caption of an emoji
HELD_OUT = 16  # of two emoji in so many one style is held out, where another style remains
FEW = 600  # emoji of one style, as people have few images
FEW_STYLE = "openmoji"  # no bundled cascade has seen it
CLASSES = {
    "mnist": "zero one two three four five six seven eight nine".split(),
    "fashion_mnist": [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ],
    "flowers": ["daisy", "dandelion", "rose", "sunflower", "tulip"],
}  # fmt: skip


@dataclass(frozen=True)
class Images:
    """Real images and their captions.

    Attributes:
        images: uint8 [n 3 side side].
        captions: one of each image.
    """

    images: Tensor
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, rows: Iterable[int]) -> "Images":
        """Return some of them, in this order."""
        chosen = list(rows)
        return Images(self.images[chosen], [self.captions[i] for i in chosen])


@dataclass(frozen=True)
class RealSet:
    """A data set: where its parts are and what of it is generated.

    Attributes:
        name: of the set.
        side: of its images, px.
        minutes: that a training has.
        count: of the captions that are generated and scored.
        seed: of the run, which decides what `train.py` splits off for validation.
        share: of the images that are trained on; None for the recipe's.
    """

    name: str
    side: int
    minutes: float
    count: int
    seed: int = 0
    share: float | None = None

    @property
    def training_path(self) -> Path:
        """Return what ``--DATASET`` is given."""
        if self.name.startswith("emoji"):
            return emoji_folder(self.name)
        return folder() / self.name / "train.parquet"

    def training_images(self) -> Images:
        """Return the images that a run trains on."""
        return images_of(self.training_part())

    def training_part(self) -> IndexedDataset:
        """Return the data set that a run trains on: without validation images."""
        training, _ = self._split()
        assert training.repeatable
        return training

    def of_run(self, seed: int, split: str) -> "RealSet":
        """Return the set as a run trains on it.

        To make choices, the run splits off about as many images as are scored, but no more than
        ``MOST_VALIDATED``: a recipe splits off few.
        """
        if split == "test":
            return replace(self, seed=seed)
        images = count_of(load_dataset(self.training_path, self.side))
        assert images is not None
        left = 1 - min(MOST_VALIDATED, self.count / images)
        return replace(self, seed=seed, share=round(left, 4))

    def _split(self) -> tuple[Dataset, Samples]:
        dataset = load_dataset(self.training_path, self.side)
        return dataset.split(self._share_of(dataset), self.seed, DataConfig().valid_num)

    @property
    def trained_share(self) -> float:
        """Return the share of the images that a run trains on: ``share``, or the recipe's."""
        return self._share_of(load_dataset(self.training_path, self.side))

    def _share_of(self, dataset: Dataset) -> float:
        return self.share or train_valid_frac(count_of(dataset))

    def all_images(self) -> Images:
        """Return the images of the training part, validation images among them."""
        return read(self.training_path, self.side)

    def held_out_images(self, split: str = "test") -> Images:
        """Return real images that are not trained on.

        Of the split ``validation`` they are those that `train.py` splits off the training data. Of
        ``test`` they are the test part, the held-out emoji, or the validation part of flowers,
        which have no other.
        """
        if split == "validation":
            return images_of(self._split()[1])
        if self.name.startswith("emoji"):
            return read(emoji_folder("emoji_held_out"), self.side)
        part = "validation" if self.name == "flowers" else "test"
        return read(folder() / self.name / f"{part}.parquet", self.side)


SETS = {
    each.name: each
    for each in (
        RealSet("mnist", 32, 5, 1000),
        RealSet("fashion_mnist", 32, 10, 2000),
        RealSet("flowers", 64, 20, 500),
        RealSet("emoji", 64, 20, 500),
        RealSet("emoji_few", 64, 20, 300),
    )
}


def folder() -> Path:
    """Return the folder of the real data."""
    return Path(os.environ.get("MINIMAGEN_BENCHMARK_DATA", ROOT.parent / "shared" / "data"))


def available() -> bool:
    """Return whether the real data is there."""
    return (folder() / "emoji" / "metadata.jsonl").is_file()


def read(path: Path, side: int) -> Images:
    """Return all images of a data set, as training sees them at this side."""
    dataset = load_dataset(path, side)
    assert dataset.repeatable
    return images_of(dataset)


def images_of(samples: Samples) -> Images:
    """Return all images of a data set of files."""
    listed = [samples[i] for i in range(len(samples))]
    pixels = np.stack([sample.image for sample in listed])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Images(images, [sample.caption for sample in listed])


def balanced(real: Images, count: int, seed: int = 0) -> Images:
    """Return ``count`` images in random order, equally many of each caption where that can be."""
    by_caption: dict[str, list[int]] = defaultdict(list)
    for row, caption in enumerate(real.captions):
        by_caption[caption].append(row)
    rng, turns = random.Random(seed), []
    for rows in by_caption.values():
        rng.shuffle(rows)
        turns += [(turn, rng.random(), row) for turn, row in enumerate(rows)]
    return real.rows(row for _, _, row in sorted(turns)[:count])


def emoji_rows() -> list[dict[str, Any]]:
    """Return the rows of the emoji, each with its ``caption``; repeated captions are left out."""
    lines = (folder() / "emoji" / "metadata.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["caption"] = STYLE.format(**row)
    counts = Counter(row["caption"] for row in rows)
    return [row for row in rows if counts[row["caption"]] == 1]


def is_held_out(rows: Sequence[dict[str, Any]]) -> list[bool]:
    """Return for each row whether it is a held-out combination of emoji and style.

    At most one style of an emoji is held out, and only where another one remains.
    """
    styles: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        styles[row["text"]].append(row["style"])

    def held_out_style(text: str) -> str | None:
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        known = sorted(styles[text])
        if len(known) == 1 or number % HELD_OUT > 1:
            return None
        return known[number // HELD_OUT % len(known)]

    return [row["style"] == held_out_style(row["text"]) for row in rows]


def emoji_folder(name: str) -> Path:
    """Return an image folder of some of the emoji, written at first use."""
    rows = emoji_rows()
    held_out = is_held_out(rows)
    wanted = name == "emoji_held_out"
    rows = [row for row, out in zip(rows, held_out, strict=True) if out == wanted]
    if name == "emoji_few":
        rows = [row for row in rows if row["style"] == FEW_STYLE]
        rows = random.Random(0).sample(rows, FEW)
    lines = [
        json.dumps({"file_name": Path(r["file_name"]).name, "text": r["caption"]}) for r in rows
    ]
    text = "\n".join(lines) + "\n"
    target = cache_folder("real") / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if not (target / "metadata.jsonl").is_file():
        target.mkdir(parents=True, exist_ok=True)
        for row in rows:
            shutil.copy(folder() / "emoji" / row["file_name"], target)
        with replacing(target / "metadata.jsonl") as part:
            part.write_text(text, "utf-8")
    return target
