"""A stream that cannot be trained on ends at once, with the true reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from minimagen.data.dataset import BadSampleError, Row
from minimagen.data.images.decoding import Framing
from minimagen.data.images.stream import ImageStream, position_of
from minimagen.data.loading.batches import training_batches
from minimagen.errors import UserError
from tests.data.sources.test_shards import png

GOOD = [Row(png(i), (f"gray {i}",), f"row {i}") for i in range(90)]
HELD_OUT = [row for row in GOOD if position_of(row.name) >= 0.8]


@dataclass
class Rows:
    """A source of these rows, without end or once only."""

    listed: list[Row | BadSampleError]
    endless: bool = True
    identity: str = "rows"

    def shuffled(self, seed: int, reader: int, readers: int) -> Iterator[Row | BadSampleError]:
        yield from self.listed
        while self.endless and self.listed:
            yield from self.listed

    def once(self) -> Iterator[Row | BadSampleError]:
        return iter(self.listed)

    def captions(self) -> Iterator[tuple[str, ...]]:
        return iter(())


def stream(*rows: Row | BadSampleError, endless: bool = True) -> ImageStream:
    return ImageStream(Rows(list(rows), endless), Framing((8, 8)))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "the source holds none"),
        ([BadSampleError("a.png: no caption")] * 3, "all 3 are bad; the first: a.png: no caption"),
        ([r for r in GOOD if r not in HELD_OUT][:3], "none of 3 images falls into the validation"),
    ],
)
def test_a_division_that_fails_names_its_reason(rows: list[Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        stream(*rows).split(0.8)


def test_validation_rows_alone_are_not_waited_for(text_encoder: Any) -> None:
    training, validation = stream(*HELD_OUT[:2]).split(0.8)
    assert len(validation) == 2
    with pytest.raises(UserError, match="belong to the validation part"):
        list(training_batches(training, text_encoder, 4, 0, 0, 1))


def test_bad_rows_alone_are_not_waited_for(text_encoder: Any) -> None:
    with pytest.raises(UserError, match="first of all: a.png: no caption|first: a.png"):
        list(
            training_batches(stream(BadSampleError("a.png: no caption")), text_encoder, 4, 0, 0, 1)
        )


@pytest.mark.parametrize("rows", [[], GOOD[:9]])
def test_a_stream_that_ends_ends_the_run_and_not_the_stage(text_encoder: Any, rows: Any) -> None:
    """Nine rows are two batches of four; more were asked for."""
    steps = training_batches(stream(*rows, endless=False), text_encoder, 4, 0, 0, 10)
    with pytest.raises(UserError, match=f"ended after {len(rows) // 4} batches"):
        list(steps)


def test_ranks_share_a_stream(text_encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def shuffled(self: Rows, seed: int, reader: int, readers: int) -> Iterator[Any]:
        asked.append((reader, readers))
        return iter(self.listed)

    monkeypatch.setattr(Rows, "shuffled", shuffled)
    sizes = [
        len(next(training_batches(stream(*GOOD), text_encoder, 4, 0, 0, 1, rank=rank, world=2)))
        for rank in range(2)
    ]
    assert asked == [(0, 2), (1, 2)] and sizes == [2, 2]
