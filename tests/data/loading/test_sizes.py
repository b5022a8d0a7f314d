"""Each learner gets images at its own size, the same to the bit as if it resized them itself."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from minimagen.config.sizes import scaled
from minimagen.data.indexed import as_dataset
from minimagen.data.loading.batches import training_batches, validation_batches
from minimagen.data.open import load_dataset
from minimagen.errors import UserError
from minimagen.images import Batch, LearnerSizes, resize_clamped, to_model_space
from minimagen.sample import Sample

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core

BUCKETS = ((32, 24), (24, 24), (24, 32))
FULL, OWN, LOW = (24, 24), (12, 12), (6, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(36):
        height, width = BUCKETS[i % 3]
        noise = np.random.default_rng(i).integers(0, 256, (2 * height, 2 * width, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i:02}.png")
        (tmp_path / f"{i:02}.txt").write_text(f"noise {i}")
    return tmp_path


def resized_by_the_stage(images: Tensor, size: tuple[int, int]) -> Tensor:
    """What a stage did with images of the cascade's last size, row by row."""
    wanted = scaled(size, FULL, (images.shape[-2], images.shape[-1]))
    return torch.cat([resize_clamped(to_model_space(row), wanted) for row in images[:, None]])


def assert_resized(full: list[Batch], small: list[Batch]) -> None:
    assert len(full) == len(small) > 0
    for a, b in zip(full, small, strict=True):
        assert b.low_res is not None and b.images.dtype == b.low_res.dtype == torch.float32
        assert torch.equal(b.images, resized_by_the_stage(a.images, OWN))
        assert torch.equal(b.low_res, resized_by_the_stage(a.images, LOW))
        assert b.captions == a.captions and torch.equal(a.text_embeds, b.text_embeds)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("buckets", [(), BUCKETS])
def test_batches_come_at_the_learners_sizes(
    folder: Path, text_encoder: Any, buckets: Any, workers: int
) -> None:
    dataset = load_dataset(folder, FULL, crop="random", flip=True, buckets=buckets)
    sizes = LearnerSizes(FULL, OWN, LOW)

    def batches(sizes: LearnerSizes | None) -> list[Batch]:
        steps = training_batches(dataset, text_encoder, 4, 0, 0, 9, workers, sizes=sizes)
        return list(steps)

    full = batches(None)
    assert len({batch.images.shape for batch in full}) == max(1, len(buckets))
    assert_resized(full, batches(sizes))


def test_validation_comes_at_the_learners_sizes(folder: Path, text_encoder: Any) -> None:
    _, held_out = load_dataset(folder, FULL, buckets=BUCKETS).split(0.5)
    full = validation_batches(held_out, text_encoder, 4, 12)
    sizes = LearnerSizes(FULL, OWN, LOW)
    assert_resized(full, validation_batches(held_out, text_encoder, 4, 12, sizes))


def test_what_has_the_learners_size_stays_uint8(folder: Path, text_encoder: Any) -> None:
    dataset = load_dataset(folder, FULL)
    (full,) = training_batches(dataset, text_encoder, 4, 0, 0, 1)
    (own,) = training_batches(
        dataset, text_encoder, 4, 0, 0, 1, sizes=LearnerSizes(FULL, FULL, OWN)
    )
    assert own.images.dtype == torch.uint8 and torch.equal(own.images, full.images)
    assert own.low_res is not None and own.low_res.shape == (4, 3, 12, 12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("shapes", "the data set is a str, 'shapes': open it with load_dataset"),
        (iter([1]), "needs a length and samples by index"),
        ([(np.zeros((4, 4, 3), np.uint8), "black")] * 2, "sample 0 of list is a tuple"),
        ([{"image": 1}] * 2, "sample 0 of list is a dict"),
        ([Sample(np.zeros((4, 4, 3)), "black")] * 2, r"has an image float64 \[4, 4, 3\]"),
        ([Sample(np.zeros((4, 4), np.uint8), "black")] * 2, r"has an image uint8 \[4, 4\]"),
        ([Sample(np.zeros((4, 4, 3), np.uint8), None)] * 2, "has the caption None"),  # type: ignore[arg-type]
    ],
)
def test_data_that_is_none_is_refused_in_one_line(given: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        as_dataset(given).split()
    assert "\n" not in str(error.value)


def test_an_encoder_is_asked_once_for_each_caption_of_a_window(spy_encoder: Any) -> None:
    samples = [Sample(np.zeros((4, 4, 3), np.uint8), f"caption {i % 10}") for i in range(60)]
    list(islice(training_batches(as_dataset(samples), spy_encoder, 4, 0, 0, 15), 15))
    assert sorted(spy_encoder.asked) == [f"caption {i}" for i in range(10)]


def test_batches_are_pinned_where_that_is_asked_for(
    text_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[int] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    dataset = as_dataset([Sample(np.zeros((4, 4, 3), np.uint8), "black")] * 8)
    sizes = LearnerSizes((4, 4), (4, 4), (2, 2))
    for pin_memory in (False, True):
        steps = training_batches(
            dataset, text_encoder, 4, 0, 0, 1, sizes=sizes, pin_memory=pin_memory
        )
        (batch,) = steps
        tensors = (batch.images, batch.low_res, batch.text_embeds, batch.text_mask)
        assert {t.data_ptr() for t in tensors if t is not None} <= set(pinned) or not pin_memory
    assert len(pinned) == 4
