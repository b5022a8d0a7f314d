"""What the `datasets` library opens: parquet files, saved data sets, the hub."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minimagen.data.sources.library import Splits, image_columns, one_line
from minimagen.data.sources.listing import TRAINING, VALIDATION, digest_of, printable
from minimagen.data.sources.table import parquet_schema
from minimagen.errors import UserError
from minimagen.storage.cache import cache_folder

HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^@]+))?(@(?P<revision>.+))?")


def open_parquet(
    name: str, training: Sequence[str], validation: Sequence[str], streaming: bool
) -> Splits:
    """Open parquet files with a column of images, or of URLs.

    Args:
        name: what messages call them.
        training: their paths.
        validation: paths; there may be none.
        streaming: read while training.

    Raises:
        UserError: they cannot be read.
    """
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


def has_images(file: Path) -> bool:
    """Return whether a parquet file has a column of images.

    Raises:
        UserError: it cannot be read.
    """
    import datasets

    schema = parquet_schema(file)
    try:
        return bool(image_columns(datasets.Features.from_arrow_schema(schema)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{printable(file)} has a damaged header: {one_line(error)}") from error


def open_saved(path: Path) -> Splits:
    """Open what ``datasets``' ``save_to_disk`` wrote.

    Raises:
        UserError: it cannot be read.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{printable(path)} is not a readable saved data set: {one_line(error)}"
        ) from error
    return _chosen(loaded, printable(path.name), False)


def open_hub(name: str, streaming: bool = False) -> Splits:
    """Open a data set of the Hugging Face hub.

    Args:
        name: ``owner/name``, then ``:config`` and ``@revision`` where they are needed.
        streaming: read while training instead of downloading first.

    Raises:
        UserError: it is not there, or cannot be reached.
    """
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
    train = next((n for n in TRAINING if n in loaded), None)
    if train is None and len(loaded) > 1:
        raise UserError(f"{name} has no split train among {', '.join(loaded)}")
    training = loaded[train or next(iter(loaded))]
    held_out = next((loaded[n] for n in VALIDATION if n in loaded and train is not None), None)
    identity = getattr(training, "_fingerprint", name)  # a streamed one has none
    return Splits(name, identity, streaming, training, held_out)
