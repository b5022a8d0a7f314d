"""Rows of what the `datasets` library has opened: which columns they have, by index or streamed."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minimagen.data.dataset import BadSampleError, Row
from minimagen.data.download.url_table import url_column
from minimagen.data.sources.captions import ALSO, DEFAULT, caption_column, captions_of
from minimagen.errors import UserError
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import replacing

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")  # of bytes
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BUFFER = 1000  # rows among which a stream shuffles


class Splits(NamedTuple):
    """What the library has opened: to train on, and to validate with, where there is such data."""

    name: str
    identity: str
    streamed: bool
    training: Any  # datasets.Dataset, or IterableDataset when it is streamed
    validation: Any = None


class Columns(NamedTuple):
    """Where a table has its images and captions; ``labels`` turns numbers into words."""

    image: str
    caption: str
    labels: tuple[str, ...] | None

    def row(self, values: Mapping[str, Any], name: str) -> Row:
        """Return one row.

        Raises:
            BadSampleError: it holds no image or no usable caption.
        """
        captions = self.captions(values)
        if captions is None:
            raise BadSampleError(f"{name}: {self.caption!r} is neither text nor a list of texts")
        return Row(_content(values[self.image], name), captions, name)

    def captions(self, values: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return a row's captions; None where they are no text."""
        value = values[self.caption]
        if self.labels is not None:
            known = isinstance(value, int) and 0 <= value < len(self.labels)
            value = self.labels[value] if known else None
        return captions_of(value)


def _content(value: Any, name: str) -> Path | bytes:
    content, path = (
        (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    )
    if isinstance(content, bytes):
        return content
    if not isinstance(path, str):
        raise BadSampleError(f"{name}: no image")
    if "://" not in path:
        return Path(path)
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadSampleError(f"{name}: {error}") from error


@dataclass(frozen=True)
class _HubRows:
    rows: Any  # datasets.Dataset, or IterableDataset
    columns: Columns
    name: str
    identity: str

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of all rows, no image read; none of a bad row."""
        only = self.rows.select_columns([self.columns.caption])
        return (self.columns.captions(values) or () for values in only)


class HubTable(_HubRows):
    """Rows of an Arrow-backed data set, by index."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        """Return one row.

        Raises:
            BadSampleError: it holds no image or no usable caption.
        """
        return self.columns.row(self.rows[index], f"{self.name}[{index}]")


class HubStream(_HubRows):
    """Rows of a streamed data set."""

    def shuffled(self, seed: int, reader: int, readers: int) -> Iterator[Row | BadSampleError]:
        """Yield rows without end, each epoch in another order; none if there are too few shards."""
        from datasets.distributed import split_dataset_by_node
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        workers = worker.num_workers if worker else 1  # among them `datasets` divides by itself
        rows = self.rows.shuffle(seed=seed, buffer_size=BUFFER)
        rows = split_dataset_by_node(rows, reader // workers, readers // workers)
        for epoch in itertools.count():
            rows.set_epoch(epoch)
            row = None
            for row in self._read(rows):
                yield row
            if row is None:
                return

    def once(self) -> Iterator[Row | BadSampleError]:
        """Yield every row once."""
        return self._read(self.rows)

    def _read(self, rows: Any) -> Iterator[Row | BadSampleError]:
        """Yield rows, named by their content: an index would change with the order."""
        for values in rows:
            digest = hashlib.blake2b(repr(values).encode("utf-8", "replace"), digest_size=8)
            try:
                yield self.columns.row(values, f"{self.name}[{digest.hexdigest()}]")
            except BadSampleError as error:
                yield error


def tables(splits: Splits, caption_column: str) -> list[HubTable]:
    """Return the rows that are trained on, then those that validate, where there are such.

    Raises:
        UserError: there are no images or no captions, or the files are damaged.
    """
    import pyarrow

    found = _narrowed(splits, caption_column)
    try:
        for rows, _ in found:  # Arrow itself would crash where offsets are wrong or text is none
            rows.data.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{splits.name} is damaged: {one_line(error)}; write it anew") from error
    return [HubTable(r, c, splits.name, f"{splits.identity} {c.image}") for r, c in found]


def streams(splits: Splits, caption_column: str) -> list[HubStream]:
    """Return the rows that are trained on, then those that validate, where there are such.

    Raises:
        UserError: there are no images or no captions.
    """
    found = _narrowed(splits, caption_column)
    return [HubStream(r, c, splits.name, splits.identity) for r, c in found]


def url_table(splits: Splits, column: str) -> tuple[Path, str] | None:
    """Store the URLs and captions to train on as a parquet file, where there are no images.

    Returns:
        The file and its caption column; None where there are images or no URLs.

    Raises:
        UserError: there are no captions, or the data is streamed.
    """
    features = splits.training.features or {}
    url = url_column(features)
    if url is None or image_columns(features):
        return None
    if splits.streamed:
        raise UserError("a URL table is downloaded before training: streaming is not possible")
    found = caption_column(features, column, splits.name)
    table = cache_folder("downloads") / f"{splits.training._fingerprint}.parquet"
    if not table.is_file():
        with replacing(table, shared=True) as part:
            splits.training.select_columns([url, found]).to_parquet(str(part))
    return table, found


def _narrowed(splits: Splits, wanted: str) -> list[tuple[Any, Columns]]:
    """Leave only the columns that are read, and the images as they are in the file."""
    import datasets

    found = []
    for rows in [part for part in (splits.training, splits.validation) if part is not None]:
        columns = _find_columns(rows.features or {}, splits.name, wanted)
        rows = rows.with_format(None)  # a saved one may hide columns
        rows = rows.select_columns([columns.image, columns.caption])
        if isinstance(rows.features[columns.image], datasets.Image):
            rows = rows.cast_column(columns.image, datasets.Image(decode=False))
        found.append((rows, columns))
    return found


def image_columns(features: Mapping[str, Any]) -> list[str]:
    """Return the columns of images: those that say so, and others of bytes with such a name."""
    import datasets

    images = [n for n, feature in features.items() if isinstance(feature, datasets.Image)]
    named = [n for n in IMAGE_COLUMNS if n in features and n not in images]
    return images + [n for n in named if _holds_bytes(features[n])]


def _holds_bytes(feature: Any) -> bool:
    inner = feature.get("bytes") if isinstance(feature, Mapping) else feature
    return getattr(inner, "dtype", None) in ("binary", "large_binary")


def _find_columns(features: Mapping[str, Any], name: str, wanted: str) -> Columns:
    import datasets

    images = image_columns(features)
    if not images:
        raise UserError(f"{name} has no column of images among {', '.join(features)}")
    labels = [n for n, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    texts = wanted in features or (wanted == DEFAULT and any(n in features for n in ALSO))
    if wanted == DEFAULT and not texts and len(labels) == 1:
        wanted = labels[0]
    column = caption_column(features, wanted, name)
    words = tuple(map(_in_words, features[column].names)) if column in labels else None
    return Columns(images[0], column, words)


def _in_words(label: str) -> str:
    """Return a class's name as a caption: T5 has read more words than codes."""
    if label in map(str, range(10)):
        return DIGITS[int(label)]
    return label.replace("_", " ")


def one_line(error: BaseException) -> str:
    """Return what went wrong in one line, from the error that came first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__
