"""What a data set says of itself is what it is, whoever made it and wherever it lies."""

import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from minimagen.data.dataset import BadSampleError, IndexedDataset, StreamedDataset, count_of
from minimagen.data.indexed import BaseDataset, WrappedDataset, as_dataset
from minimagen.data.open import load_dataset
from minimagen.errors import UserError
from minimagen.sample import Sample
from minimagen.shapes.dataset import ShapesDataset


def write(folder: Path, captions: str = "abc") -> Path:
    folder.mkdir(parents=True)
    for i, caption in enumerate(captions):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


class Grays:
    """A user's class with a length and samples, the first of them bad."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Sample:
        if index == 0:
            raise BadSampleError("the first one is bad")
        return Sample(np.full((4, 6, 3), index, np.uint8), f"gray {index}")


def test_what_load_dataset_returns_and_shapes_are_data_sets_as_they_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    for given in (load_dataset(folder), load_dataset("shapes"), ShapesDataset(size=8)):
        assert as_dataset(given) is given and isinstance(given, IndexedDataset)
    stream = load_dataset("https://example.org/{0..3}.tar")
    assert as_dataset(stream) is stream and isinstance(stream, StreamedDataset)
    assert count_of(stream) is None and count_of(load_dataset(folder)) == 3


def test_a_class_of_the_users_own_says_its_name_and_its_images_size() -> None:
    dataset = as_dataset(Grays())
    assert isinstance(dataset, WrappedDataset)
    assert dataset.description == {"dataset": "Grays"}
    assert dataset.sizes == {(4, 6): 10} and count_of(dataset) == 10
    assert list(dataset.captions()) == [(), *((f"gray {i}",) for i in range(1, 10))]
    training, validation = dataset.split(0.8)
    assert training.description == {"dataset": "Grays"} and training.sizes == {(4, 6): 8}
    assert training.identity == dataset.identity and len(validation) == 2
    with pytest.raises(UserError, match="nothing to check"):
        dataset.rows()


def test_a_derived_class_draws_as_it_likes() -> None:
    class Shuffled(BaseDataset):
        sizes = {(4, 4): 3}  # type: ignore[assignment]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Sample:
            return Sample(np.zeros((4, 4, 3), np.uint8), f"sample {index}")

        def draw(self, index: int, rng: Random) -> Sample:
            return Sample(np.zeros((4, 4, 3), np.uint8), f"drawn {rng.random() < 2}")

    some = as_dataset(Shuffled()).at_most(2)
    assert some.repeatable and some.draw(0, Random(0)).caption == "drawn True"


def test_content_decides_not_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(write(tmp_path / "here" / "a"), (8, 8))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = load_dataset(tmp_path / "there" / "a", (8, 8))
    assert moved.identity == dataset.identity
    other = load_dataset(write(tmp_path / "b", "abd"), (8, 8))
    fewer = load_dataset(write(tmp_path / "c", "ab"), (8, 8))
    assert len({dataset.identity, other.identity, fewer.identity}) == 3
    monkeypatch.chdir(tmp_path / "here")
    relative = load_dataset("a", (8, 8)).description
    monkeypatch.chdir(tmp_path)
    assert relative["dataset"] == str(tmp_path / "here" / "a")


def test_the_options_of_a_data_set_are_told_by_the_data_set(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    dataset = load_dataset(folder, (8, 8), crop="random", flip=True, buckets=((8, 8),))
    assert dataset.split(0.7)[0].description == {
        "dataset": str(folder), "caption_column": "text", "crop": "random", "flip": True,
        "aspect_buckets": True, "streaming": False, "where": None,
    }  # fmt: skip
    scenes = ShapesDataset(level="scenes", seed=3, epoch_size=9)
    assert scenes.description == {"dataset": "shapes:scenes", "seed": 3, "epoch_size": 9}
    assert load_dataset("shapes").description["dataset"] == "shapes"
