"""What the `datasets` library reads: parquet files, saved data sets, the hub."""

import glob
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow

from minimagen.config.data import CAPTION_COLUMN
from minimagen.data.dataset import BadSampleError, Row
from minimagen.data.download.url_table import named, url_column
from minimagen.data.sources.listing import digest_of, division, printable
from minimagen.data.sources.table import (
    ALSO,
    caption_column,
    captions_of,
    one_line,
    parquet_schema,
)
from minimagen.data.where import Where
from minimagen.errors import UserError
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import replacing

HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^@]+))?(@(?P<revision>.+))?")
DAMAGE = (ValueError, LookupError, TypeError, AttributeError)  # what its metadata raises
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


def open_parquet(
    name: str, training: Sequence[str], validation: Sequence[str], streaming: bool
) -> Splits:
    """Open parquet files with a column of images, or of URLs; ``name`` is for messages."""
    paths = [*training, *validation]
    if odd := next((path for path in paths if printable(path) != path), None):
        raise UserError(f"{printable(odd)}: the reader of parquet needs names in UTF-8: rename it")
    files = {"train": training, "validation": validation}
    loaded = _load(
        "parquet",
        name,
        data_files={part: list(map(glob.escape, some)) for part, some in files.items() if some},
        cache_dir=str(cache_folder("parquet")),
        streaming=streaming,
    )
    return Splits(name, digest_of(paths), streaming, loaded["train"], loaded.get("validation"))


def open_saved(path: Path) -> Splits:
    """Open what ``datasets``' ``save_to_disk`` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, *DAMAGE) as error:
        raise UserError(
            f"{printable(path)} is not a readable saved data set: {one_line(error)}"
        ) from error
    return _chosen(loaded, printable(path.name), False)


def open_hub(name: str, streaming: bool = False) -> Splits:
    """Open a data set of the Hugging Face hub: ``owner/name:config@revision``."""
    match = HUB_ID.fullmatch(name)
    assert match is not None, "the caller has looked"
    hub_id, config, revision = match["id"], match["config"], match["revision"]
    _check_hub(hub_id, revision)
    loaded = _load(hub_id, name, name=config, revision=revision, streaming=streaming)
    return _chosen(loaded, name, streaming)


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
            f"no data set {hub_id!r} here, and the hub cannot be reached ({one_line(error)}): give "
            "shapes, shapes:scenes, a folder with images and captions, or HF_HUB_OFFLINE=1 to "
            "use what was downloaded before"
        ) from None


def _load(builder: str, source: str, /, **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(builder, **options)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise UserError(f"{source} cannot be read: {one_line(error)}") from error


def _chosen(loaded: Any, name: str, streaming: bool) -> Splits:
    """Choose what is trained on and what validates."""
    if not isinstance(loaded, dict):
        loaded = {"train": loaded}
    train, held_out = division(loaded)
    if train is None and len(loaded) > 1:
        raise UserError(f"{name} has no split train among {', '.join(loaded)}")
    training = loaded[train or next(iter(loaded))]
    validation = loaded[held_out] if train and held_out else None
    identity = getattr(training, "_fingerprint", name)  # a streamed one has none
    return Splits(name, identity, streaming, training, validation)


def has_images(file: Path) -> bool:
    """Return whether a parquet file has a column of images."""
    import datasets

    schema = parquet_schema(file)
    try:
        return bool(image_columns(datasets.Features.from_arrow_schema(schema)))
    except DAMAGE as error:
        raise UserError(f"{printable(file)} has a damaged header: {one_line(error)}") from error


def image_columns(features: Mapping[str, Any]) -> list[str]:
    """Return the columns of images: those that say so, and others of bytes with such a name."""
    import datasets

    def holds_bytes(feature: Any) -> bool:
        inner = feature.get("bytes") if isinstance(feature, Mapping) else feature
        return getattr(inner, "dtype", None) in ("binary", "large_binary")

    images = [n for n, feature in features.items() if isinstance(feature, datasets.Image)]
    named = [n for n in IMAGE_COLUMNS if n in features and n not in images]
    return images + [n for n in named if holds_bytes(features[n])]


def url_table(splits: Splits, column: str) -> tuple[Path, str] | None:
    """Store the URLs and captions to train on as a parquet file, where there are no images.

    Returns:
        The file and its caption column; None where there are images or no URLs.
    """
    features = splits.training.features or {}
    url = url_column(features)
    if url is None or image_columns(features):
        return None
    if splits.streamed:
        raise UserError("a URL table is downloaded before training: streaming is not possible")
    found = caption_column(features, column, splits.name)
    table = cache_folder("downloads") / f"{named(splits.training._fingerprint, column)}.parquet"
    if not table.is_file():
        with replacing(table, shared=True) as part:
            splits.training.select_columns([url, found]).to_parquet(str(part))
    return table, found


@dataclass(frozen=True)
class _HubRows:
    """Rows of images and captions; ``labels`` turns numbers into words."""

    rows: Any  # datasets.Dataset, or IterableDataset
    name: str
    identity: str
    image: str  # columns
    caption: str
    labels: tuple[str, ...] | None

    def captions(self) -> Iterator[tuple[str, ...]]:
        """Yield the captions of all rows, no image read; none of a bad row."""
        return (self._captions(row) or () for row in self.rows.select_columns([self.caption]))

    def _captions(self, values: Mapping[str, Any]) -> tuple[str, ...] | None:
        value = values[self.caption]
        if self.labels is not None:
            known = isinstance(value, int) and 0 <= value < len(self.labels)
            value = self.labels[value] if known else None
        return captions_of(value)

    def _row(self, values: Mapping[str, Any], place: int | str) -> Row:
        name, captions = f"{self.name}[{place}]", self._captions(values)
        if captions is None:
            raise BadSampleError(f"{name}: {self.caption!r} is neither text nor a list of texts")
        return Row(_content(values[self.image], name), captions, name)


Rows = TypeVar("Rows", bound=_HubRows)


class HubTable(_HubRows):
    """Rows of an Arrow-backed data set, by index."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self._row(self.rows[index], index)


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
                yield self._row(values, digest.hexdigest())
            except BadSampleError as error:
                yield error


def _content(value: Any, name: str) -> Path | bytes:
    content, path = value, None
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
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


def tables(splits: Splits, wanted: str, where: Where | None = None) -> list[HubTable]:
    """Return the rows to train on and those that validate, with the ``wanted`` caption column."""
    found = _open_rows(HubTable, splits, wanted, where)
    try:
        for table in found:  # Arrow itself would crash where offsets are wrong or text is none
            table.rows.data.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{splits.name} is damaged: {one_line(error)}; write it anew") from error
    return found


def streams(splits: Splits, wanted: str, where: Where | None = None) -> list[HubStream]:
    """Return what `tables` does, as it comes."""
    return _open_rows(HubStream, splits, wanted, where)


def _open_rows(kind: type[Rows], splits: Splits, wanted: str, where: Where | None) -> list[Rows]:
    """Leave only the columns that are read, and the images as they are in the file."""
    import datasets

    found = []
    for rows in (splits.training, splits.validation):
        if rows is None:
            continue
        image, caption, labels = _find_columns(rows.features or {}, splits.name, wanted)
        rows = rows.with_format(None)  # a saved one may hide columns
        for name, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
        identity = splits.identity if splits.streamed else f"{splits.identity} {image}"
        if where is not None:
            rows, identity = (
                _fitting(rows, image, where, splits.streamed),
                f"{identity} {where.text}",
            )
            if not splits.streamed and not len(rows):
                raise UserError(f"no row of {splits.name} fits `where` {where.text!r}")
        rows = rows.select_columns([image, caption])
        found.append(kind(rows, splits.name, identity, image, caption, labels))
    return found


def _fitting(rows: Any, image: str, where: Where, streamed: bool) -> Any:
    """Return those rows that fit a condition; images are read only where it asks for their size."""
    where.check(list(rows.features))
    read = sorted(where.names & set(rows.features))
    measured = [image] * (not where.names <= set(read))

    def keep(*columns: list[Any]) -> list[bool]:
        *values, images = columns if measured else (*columns, [None] * len(columns[0]))
        cells = [dict(zip(read, row, strict=True)) for row in zip(*values, strict=True)]
        files = (i.get("bytes") or i.get("path") if isinstance(i, dict) else i for i in images)
        return where.kept(cells or [{}] * len(images), files)

    options: dict[str, Any] = {"input_columns": [*read, *measured], "batched": True}
    if not streamed:  # a cache file would be written beside the user's data
        options |= {"keep_in_memory": True, "load_from_cache_file": False}
    return rows.filter(keep, **options)


def _find_columns(
    features: Mapping[str, Any], name: str, wanted: str
) -> tuple[str, str, tuple[str, ...] | None]:
    """Return the columns of images and of captions, and the captions of labels."""
    import datasets

    images = image_columns(features)
    if not images:
        raise UserError(f"{name} has no column of images among {', '.join(features)}")
    labels = [n for n, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    texts = [n for n in (wanted, *ALSO) if n in features]
    if wanted == CAPTION_COLUMN and not texts and len(labels) == 1:
        wanted = labels[0]
    column = caption_column(features, wanted, name)
    words = tuple(map(_in_words, features[column].names)) if column in labels else None
    return images[0], column, words


def _in_words(label: str) -> str:
    """Return a class's name as a caption: T5 has read more words than codes."""
    return DIGITS[int(label)] if label in map(str, range(10)) else label.replace("_", " ")
