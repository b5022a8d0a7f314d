"""A thread makes the next batches: in order, errors in their place, nothing left running."""

import threading
from collections.abc import Iterator

import pytest

from minimagen.data.loading.ahead import read_ahead
from minimagen.data.loading.batches import training_batches
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.shapes.dataset import ShapesDataset


def numbers(until: int, fail: bool = False) -> Iterator[tuple[int, int]]:
    for number in range(until):
        yield number, threading.get_ident()
    if fail:
        raise UserError("the data ended")


def threads() -> int:
    return sum(thread.name.startswith("batches") for thread in threading.enumerate())


@pytest.mark.parametrize("until", [0, 1, 2, 3, 4, 50])
def test_everything_comes_in_order_and_all_but_the_first_from_another_thread(until: int) -> None:
    found = list(read_ahead(numbers(until)))
    assert [number for number, _ in found] == list(range(until))
    here = threading.get_ident()
    assert [thread == here for _, thread in found] == [True, *[False] * (until - 1)][:until]
    assert threads() == 0


def test_an_error_comes_after_what_was_before_it() -> None:
    reader, found = read_ahead(numbers(5, fail=True)), []
    with pytest.raises(UserError, match="the data ended"):
        for number, _ in reader:
            found.append(number)
    assert found == [0, 1, 2, 3, 4] and threads() == 0


def test_only_a_few_are_made_ahead_and_none_after_the_reader_is_closed() -> None:
    made = []

    def watched() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    reader = read_ahead(watched(), count=2)
    assert [next(reader), next(reader)] == [0, 1]
    reader.close()
    assert len(made) <= 4 and threads() == 0


def test_batches_for_a_gpu_are_the_batches(text_encoder, monkeypatch) -> None:
    pinned = []
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: pinned.append(batch) or batch)
    data, key = ShapesDataset(size=16, epoch_size=8), (4, 0, 2, 9)
    plain = list(training_batches(data, text_encoder, *key))
    ahead = list(training_batches(data, text_encoder, *key, pin_memory=True))
    assert len(plain) == len(ahead) == len(pinned) == 7
    for one, other in zip(plain, ahead, strict=True):
        assert one.captions == other.captions
        assert one.images.equal(other.images) and one.text_embeds.equal(other.text_embeds)
