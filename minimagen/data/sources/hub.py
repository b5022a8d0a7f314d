"""What the `datasets` library reads: parquet with pictures, saved data sets, the hub."""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from minimagen.data.dataset import BadSampleError, Row
from minimagen.data.download.download import download
from minimagen.data.download.url_table import url_column
from minimagen.data.images.dataset import ImageDataset
from minimagen.data.images.decoding import Framing
from minimagen.data.images.stream import ImageStream
from minimagen.data.sources.captions import ALSO, DEFAULT, caption_column, captions_of
from minimagen.data.sources.shards import load_shards
from minimagen.errors import UserError
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import replacing

HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^@]+))?(@(?P<revision>.+))?")
TRAINING = ("train", "training")
VALIDATION = ("validation", "valid", "val", "dev", "test")
PICTURES = ("image", "img", "picture", "jpg", "png")  # columns of bytes that are pictures
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BUFFER = 1000  # rows among which a stream shuffles


class Columns(NamedTuple):
    """Where a table has its pictures and captions; ``labels`` turns numbers into words."""

    picture: str
    caption: str
    labels: tuple[str, ...] | None

    def row(self, values: Mapping[str, Any], name: str) -> Row:
        """Return one row.

        Raises:
            BadSampleError: it holds no picture or no usable caption.
        """
        captions = self._captions(values)
        if captions is None:
            raise BadSampleError(f"{name}: {self.caption!r} is neither text nor a list of texts")
        return Row(_picture(values[self.picture], name), captions, name)

    def walk(self, rows: Any) -> Iterator[tuple[str, ...]]:
        """Go through the captions of ``rows`` without reading pictures; none of a bad row."""
        only = rows.select_columns([self.caption])
        return (self._captions(values) or () for values in only)

    def _captions(self, values: Mapping[str, Any]) -> tuple[str, ...] | None:
        value = values[self.caption]
        if self.labels is not None:
            known = isinstance(value, int) and 0 <= value < len(self.labels)
            value = self.labels[value] if known else None
        return captions_of(value)


def _picture(value: Any, name: str) -> Path | bytes:
    content, path = (
        (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    )
    if isinstance(content, bytes):
        return content
    if not isinstance(path, str):
        raise BadSampleError(f"{name}: no picture")
    if "://" not in path:
        return Path(path)
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadSampleError(f"{name}: {error}") from error


@dataclass(frozen=True)
class HubTable:
    """Rows of an Arrow-backed data set, by index."""

    rows: Any  # datasets.Dataset
    columns: Columns
    name: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        """Return one row.

        Raises:
            BadSampleError: it holds no picture or no usable caption.
        """
        return self.columns.row(self.rows[index], f"{self.name}[{index}]")

    @property
    def identity(self) -> str:
        """Return what is another one whenever the rows are."""
        return f"{self.rows._fingerprint} {self.columns.picture}"

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Go through the captions of all rows; none of a bad row."""
        return self.columns.walk(self.rows)


@dataclass(frozen=True)
class HubStream:
    """Rows of a streamed data set."""

    rows: Any  # datasets.IterableDataset
    columns: Columns
    name: str

    @property
    def identity(self) -> str:
        """Return the name that it was opened by."""
        return self.name

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

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Go through the captions of all rows once; none of a bad row."""
        return self.columns.walk(self.rows)

    def _name(self, values: Mapping[str, Any]) -> str:
        """Name a row by its content: an index would change with the order."""
        digest = hashlib.blake2b(repr(values).encode("utf-8", "replace"), digest_size=8).hexdigest()
        return f"{self.name}[{digest}]"

    def _read(self, rows: Any) -> Iterator[Row | BadSampleError]:
        for values in rows:
            try:
                yield self.columns.row(values, self._name(values))
            except BadSampleError as error:
                yield error


def load_parquet(
    path: Path, framing: Framing, caption_column: str, streaming: bool = False
) -> ImageDataset | ImageStream:
    """Open a parquet file, or a folder of them, with a column of pictures.

    Raises:
        UserError: it cannot be read, or has no pictures or captions.
    """
    where = {"data_dir": str(path)} if path.is_dir() else {"data_files": str(path)}
    loaded = _load(
        "parquet", str(path), cache_dir=cache_folder("parquet"), streaming=streaming, **where
    )
    return _opened(loaded, path.name, framing, caption_column)


def load_saved(path: Path, framing: Framing, caption_column: str) -> ImageDataset | ImageStream:
    """Open what ``datasets``' ``save_to_disk`` wrote.

    Raises:
        UserError: it cannot be read, or has no pictures or captions.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a readable saved data set: {_line(error)}") from error
    return _opened(loaded, path.name, framing, caption_column)


def load_hub(
    name: str, framing: Framing, caption_column: str, streaming: bool = False
) -> ImageDataset | ImageStream:
    """Open a data set of the Hugging Face hub.

    Args:
        name: ``owner/name``, then ``:config`` and ``@revision`` where they are needed.
        framing: size, crop and flip of the samples.
        caption_column: the name of the caption.
        streaming: read while training instead of downloading first.

    Raises:
        UserError: it is not there, cannot be reached, or has no pictures or captions.
    """
    match = HUB_ID.fullmatch(name)
    assert match is not None, "the caller has looked"
    hub_id, config, revision = match["id"], match["config"], match["revision"]
    _check_hub(hub_id, revision)
    loaded = _load(hub_id, name, name=config, revision=revision, streaming=streaming)
    return _opened(loaded, name, framing, caption_column)


def _check_hub(hub_id: str, revision: str | None) -> None:
    """Ask the hub once, without the half minute of retries that a download spends offline."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return  # datasets then looks into its cache
    try:
        HfApi().dataset_info(hub_id, revision=revision, timeout=10)
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"no data set {hub_id!r} here or on the hub (private? set HF_TOKEN)"
        ) from None
    except (HTTPError, OSError) as error:
        raise UserError(
            f"no data set {hub_id!r} here, and the hub cannot be reached ({_line(error)}): give "
            "shapes, shapes:scenes, a folder with pictures and captions, or HF_HUB_OFFLINE=1 to "
            "use what was downloaded before"
        ) from None


def _load(builder: str, told: str, /, **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(builder, **options)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise UserError(f"{told} cannot be read: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """Return what went wrong in one line, from the error that came first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__


def _opened(
    loaded: Any, name: str, framing: Framing, caption_column: str
) -> ImageDataset | ImageStream:
    """Choose splits and columns."""
    import datasets

    if not isinstance(loaded, dict):
        loaded = {"train": loaded}
    train = next((n for n in TRAINING if n in loaded), None)
    if train is None and len(loaded) > 1:
        raise UserError(f"{name} has no split train among {', '.join(loaded)}")
    tables = [loaded[train or next(iter(loaded))]]
    tables += [loaded[n] for n in VALIDATION if n in loaded and train is not None][:1]
    if (found := _addresses(tables[0], name, caption_column)) is not None:
        return _fetched(tables[0], found, framing)
    columns = [_find_columns(table.features or {}, name, caption_column) for table in tables]
    rows = [_narrowed(t, c) for t, c in zip(tables, columns, strict=True)]
    if isinstance(rows[0], datasets.Dataset):
        _check_arrow(rows, name)
    if isinstance(rows[0], datasets.IterableDataset):
        streams = [
            ImageStream(HubStream(r, c, name), framing) for r, c in zip(rows, columns, strict=True)
        ]
        streams[0].validation = streams[1] if len(streams) > 1 else None
        return streams[0]
    parts = [
        ImageDataset(HubTable(r, c, name), framing) for r, c in zip(rows, columns, strict=True)
    ]
    parts[0].validation = parts[1] if len(parts) > 1 else None
    return parts[0]


def _check_arrow(tables: list[Any], name: str) -> None:
    """Refuse Arrow files whose offsets lie or whose text is none: Arrow itself would crash."""
    import pyarrow

    try:
        for table in tables:
            table.data.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{name} is damaged: {_line(error)}; write it anew") from error


def _addresses(rows: Any, name: str, wanted: str) -> list[str] | None:
    """Return the columns of addresses and captions, where there are addresses and no pictures."""
    features = rows.features or {}
    address = url_column(features)
    if address is None or _picture_columns(features):
        return None
    return [address, caption_column(features, wanted, name)]


def _fetched(rows: Any, columns: list[str], framing: Framing) -> ImageStream:
    """Fetch the pictures of a table of addresses, such as Conceptual Captions."""
    import datasets

    if isinstance(rows, datasets.IterableDataset):
        raise UserError("a table of addresses is fetched before training: leave out `streaming`")
    folder = cache_folder("downloads")
    table = folder / f"{rows._fingerprint}.parquet"
    if not table.is_file():
        with replacing(table, shared=True) as part:
            rows.select_columns(columns).to_parquet(str(part))
    return load_shards(download(table, table.with_suffix(""), columns[1]).shards, framing)


def _narrowed(rows: Any, columns: Columns) -> Any:
    """Leave only what is read, and the pictures as they are in the file."""
    import datasets

    if not isinstance(rows, datasets.IterableDataset):
        rows = rows.with_format(None)  # a saved one may hide columns
    rows = rows.select_columns([columns.picture, columns.caption])
    if isinstance(rows.features[columns.picture], datasets.Image):
        return rows.cast_column(columns.picture, datasets.Image(decode=False))
    return rows


def _picture_columns(features: Mapping[str, Any]) -> list[str]:
    import datasets

    pictures = [n for n, feature in features.items() if isinstance(feature, datasets.Image)]
    return pictures + [n for n in PICTURES if n in features and n not in pictures]


def _find_columns(features: Mapping[str, Any], name: str, wanted: str) -> Columns:
    import datasets

    pictures = _picture_columns(features)
    if not pictures:
        raise UserError(f"{name} has no column of pictures among {', '.join(features)}")
    labels = [n for n, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    texts = wanted in features or (wanted == DEFAULT and any(n in features for n in ALSO))
    if wanted == DEFAULT and not texts and len(labels) == 1:
        wanted = labels[0]
    column = caption_column(features, wanted, name)
    words = tuple(map(_in_words, features[column].names)) if column in labels else None
    return Columns(pictures[0], column, words)


def _in_words(label: str) -> str:
    """Return a class's name as a caption: T5 has read more words than codes."""
    if label in map(str, range(10)):
        return DIGITS[int(label)]
    return label.replace("_", " ")
