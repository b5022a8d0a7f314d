"""Which sample comes when: shuffled, exact after a resume, the same with any number of workers."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from minimagen.config import Size
from minimagen.data.bad_samples import BadSamples
from minimagen.data.dataset import BadSampleError
from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.decoding import Framing
from minimagen.data.indexed import BaseDataset
from minimagen.data.loading import batches as loader
from minimagen.data.loading.batches import good_samples, training_batches, validation_batches
from minimagen.data.loading.order import Order
from minimagen.data.loading.reading import IndexedReader
from minimagen.data.open import load_dataset
from minimagen.data.permutation import Permutation
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.sample import Sample
from minimagen.shapes.dataset import ShapesDataset

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core


class Numbers(BaseDataset):
    """Sample i is gray i with caption i; some of them are bad."""

    def __init__(self, length: int, bad: set[int] | None = None) -> None:
        self.length, self.bad, self.read = length, bad or set(), 0

    @property
    def sizes(self) -> dict[Size, int]:
        return {(4, 4): self.length}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        self.read += 1
        if index in self.bad:
            raise BadSampleError(f"number {index}: bad")
        return Sample(np.full((4, 4, 3), index % 256, np.uint8), str(index))


def _captions(dataset: Any, encoder: Any, start: int, stop: int, workers: int = 0) -> list[str]:
    """Return the captions in the order in which they are trained on."""
    batches = training_batches(dataset, encoder, 4, 0, start, stop, workers)
    return [caption for batch in batches for caption in batch.captions]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000])
def test_a_permutation_holds_every_number_once_and_depends_on_its_key(length: int) -> None:
    order, other = (
        list(map(Permutation(length, "a", k).__getitem__, range(length))) for k in (1, 2)
    )
    assert sorted(order) == sorted(other) == list(range(length))
    assert order == [Permutation(length, "a", 1)[i] for i in range(length)]
    assert length < 64 or np.not_equal(order, other).mean() > 0.9


def test_a_permutation_is_as_random_as_it_should_be() -> None:
    """Where 0 goes is uniform, and neighbors do not stay neighbors."""
    counts = np.bincount([Permutation(10, seed)[0] for seed in range(5000)], minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-squared, 9 degrees, p = 0.001
    permutation = Permutation(10_000, 3)
    order = np.array([permutation[i] for i in range(10_000)])
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.03
    assert abs(np.abs(np.diff(order)).mean() / 3333 - 1) < 0.05


def test_each_epoch_holds_every_sample_once_in_another_order() -> None:
    order = Order((10,), seed=4)
    indices = np.array([order.at(position) for position in range(30)]).reshape(3, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in indices)
    assert len({tuple(epoch.tolist()) for epoch in indices}) == 3


def test_drawn_data_never_comes_again() -> None:
    """Without end, two epochs are twice as many images."""
    order = Order((4,), seed=0, endless=True)
    assert [i for batch in order.batches(3, 1, 4) for i in batch] == [(p, p) for p in range(3, 12)]


def test_training_on_shapes_draws_beyond_the_epoch(text_encoder: Any) -> None:
    dataset = ShapesDataset(size=8, epoch_size=4)
    seen = _captions(dataset, text_encoder, 0, 3)[:12]
    assert seen == [dataset[i].caption for i in range(12)]


def test_a_run_may_start_anywhere(text_encoder: Any) -> None:
    whole = _captions(Numbers(11), text_encoder, 0, 9)
    assert _captions(Numbers(11), text_encoder, 5, 9)[-16:] == whole[-16:]


def test_what_a_sample_leaves_open_is_drawn_anew_each_epoch_and_exactly_on_resume(
    tmp_path: Path, text_encoder: Any
) -> None:
    rows = []
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (20, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": [f"{i} {word}" for word in "abcdefgh"]})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = load_dataset(tmp_path, 10, crop="random", flip=True)

    def batches(start: int, stop: int, workers: int = 0) -> list[Batch]:
        return list(training_batches(dataset, text_encoder, 6, 0, start, stop, workers))

    whole = batches(0, 4)
    for other in (batches(2, 4), batches(2, 4, workers=2)):
        for a, b in zip(whole[2:], other, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.text_embeds, b.text_embeds)
    first, second = ({x.numpy().tobytes() for x in batch.images} for batch in whole[:2])
    assert not first & second  # other crops of the same six images


def test_what_is_drawn_does_not_depend_on_what_is_in_memory(tmp_path: Path) -> None:
    """A square image has one crop and is kept; its flips and captions must not change by that."""
    Image.fromarray(np.tile(np.arange(20, dtype=np.uint8), (20, 1))).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("\n".join("abcdefgh"))
    table = load_dataset(tmp_path).table
    kept = ImageDataset(table, Framing((10, 10), "random", flip=True))
    for i in range(20):
        fresh = ImageDataset(table, kept.framing).draw(0, Random(i))
        again = kept.draw(0, Random(i))
        assert again.caption == fresh.caption
        assert np.array_equal(again.image, fresh.image)


def test_crops_and_flips_come_out_as_drawn(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(60, dtype=np.uint8), (20, 1))
    Image.fromarray(ramp).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a ramp")
    table = load_dataset(tmp_path).table
    free = ImageDataset(table, Framing((20, 20), "random", flip=True))
    rows = [free.draw(0, Random(i)).image[0, :, 0].astype(int) for i in range(200)]
    assert {int(np.sign(row[-1] - row[0])) for row in rows} == {-1, 1}
    starts = [min(row[0], row[-1]) for row in rows]
    assert min(starts) <= 2 and max(starts) >= 38 and 15 < np.mean(starts) < 25
    fixed = ImageDataset(table, Framing((20, 20)))
    assert all(np.array_equal(fixed.draw(0, Random(i)).image, fixed[0].image) for i in range(5))
    assert fixed[0].image[0, 0, 0] == 20


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_counted_and_named_once(
    text_encoder: Any, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    dataset = Numbers(200, bad={17, 18})
    with caplog.at_level(logging.WARNING):
        seen = _captions(dataset, text_encoder, 0, 100, workers)
    assert not {"17", "18"} & set(seen)
    assert caplog.text.count("number 17: bad") == caplog.text.count("number 18: bad") == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_end_the_run_in_one_line(text_encoder: Any, workers: int) -> None:
    with pytest.raises(UserError, match=r"of \d+ images are bad, more than 5%") as error:
        _captions(Numbers(1000, bad=set(range(100))), text_encoder, 0, 200, workers)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="100 bad images in a row|are bad") as error:
        _captions(Numbers(1000, bad=set(range(1000))), text_encoder, 0, 1, workers)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="all 9 images are bad; the first: number 0: bad"):
        validation_batches(Numbers(9, bad=set(range(9))), text_encoder, 4, 9)


def test_a_worker_obeys_its_run_alone_and_never_outlives_it() -> None:
    """The loader is still held when Python ends, as it is by the traceback of a crash."""
    code = """
import subprocess
from multiprocessing import active_children
from minimagen.data.loading.batches import training_batches
from minimagen.shapes.dataset import ShapesDataset
from tests.conftest import HashTextEncoder

batches = training_batches(ShapesDataset(size=8), HashTextEncoder(), 4, 0, 0, 10**6, num_workers=1)
next(batches)
[worker] = active_children()
subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
for _ in range(300):
    next(batches)
print("alive" if worker.is_alive() else "dead")
"""
    root = Path(__file__).parents[3]
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=root, timeout=60, check=True, capture_output=True, text=True)
    assert done.stdout == "alive\n" and done.stderr == ""


def test_at_most_ten_bad_samples_are_named(caplog: pytest.LogCaptureFixture) -> None:
    count = BadSamples()
    with caplog.at_level(logging.WARNING):
        for i in range(20):
            count.add([f"image {i}: bad"], 100)
    assert len(caplog.records) == 10
    assert (count.bad, count.total) == (20, 2000)


def test_an_epoch_of_many_needs_no_memory() -> None:
    order = Order((10**12,), 0)
    dataset = IndexedReader(Numbers(10**12), order, 0)
    (keys,) = order.batches(4, 10**6, 10**6 + 1)
    sample = dataset[keys[0]].sample
    assert sample is not None and sample.caption == str(keys[0][1])


def test_enlarged_images_are_told_once(
    tmp_path: Path, text_encoder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for i, side in enumerate((8, 20, 20, 20)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("black")
    dataset = load_dataset(tmp_path, 16)
    with caplog.at_level(logging.WARNING):
        _captions(dataset, text_encoder, 0, 300)
    assert caplog.text.count("smaller than they are trained at and were enlarged") == 1


@pytest.mark.parametrize(("images", "ahead"), [(512, 512), (12, 12), (1, 4)])
def test_what_is_read_ahead_is_bounded_and_each_step_reads_one_batch_more(
    text_encoder: Any, monkeypatch: pytest.MonkeyPatch, images: int, ahead: int
) -> None:
    monkeypatch.setattr(loader, "READ_AHEAD", images * 4 * 4 * 3)
    dataset = Numbers(1000)
    steps = training_batches(dataset, text_encoder, 4, 0, 0, 250)
    read = [dataset.read for _ in steps]
    assert read == [min(ahead + 4 * step, 1000) for step in range(250)]


def test_a_part_of_the_data_is_drawn_at_random_and_stays_the_same() -> None:
    numbers = Numbers(1000)
    some = numbers.at_most(10, seed=1)
    drawn = [some[i].caption for i in range(len(some))]
    assert len(set(drawn)) == 10 and max(map(int, drawn)) > 100
    again = numbers.at_most(10, seed=1)
    assert drawn == [again[i].caption for i in range(10)]
    assert numbers.at_most(1000) is numbers


def test_a_validation_part_without_images_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match="the validation part has no images"):
        list(good_samples([], 4))
