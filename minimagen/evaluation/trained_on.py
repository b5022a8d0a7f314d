"""The data of a training, for what measures it: divided as the training divided it."""

import logging
from pathlib import Path

from minimagen.config import DataConfig
from minimagen.config.data import CAPTION_COLUMN, is_embedded, is_same
from minimagen.errors import UserError
from minimagen.storage.directory import read_parameter_values

log = logging.getLogger(__name__)


def data_of(folder: Path, other: str | None, caption_column: str | None = None) -> DataConfig:
    """Return the settings of the data of a training, or the defaults for ``other`` data.

    Where the training does not say what its data was, a warning says so: some of the ``other``
    images may have been trained on.

    Args:
        folder: The parameters of the training.
        other: Data that a user names; None for that of the training.
        caption_column: Instead of the training's, or of the default.

    Raises:
        UserError: The training does not say, as it was shared, and no ``other`` data is named; or
            as for ``read_parameters``.
    """
    values = read_parameter_values(folder)
    if "data" in values:
        own = DataConfig.read(values["data"], str(folder / "data.json"))
        if other is not None and _has_moved(own.dataset, other):
            own = own.replace(dataset=other)
        if other is None or is_same(other, own.dataset):
            return own.replace(caption_column=caption_column or own.caption_column)
    if other is None:
        raise UserError(f"{folder.parent} does not say what it was trained on; give `dataset`")
    if "data" not in values and not is_embedded(other):
        log.warning(
            f"{folder.parent} does not say what it was trained on: images of {other} that count as "
            "held out may have been trained on"
        )
    return DataConfig(dataset=other, caption_column=caption_column or CAPTION_COLUMN)


def _has_moved(known: str, given: str) -> bool:
    """Return whether files are here no more, and files of the same name are given."""
    gone = Path(known).is_absolute() and not Path(known).exists()
    return gone and Path(given).exists() and Path(given).resolve().name == Path(known).name
