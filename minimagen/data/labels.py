"""The class labels of a data set: its distinct captions."""

from itertools import islice

from minimagen.data.dataset import Dataset
from minimagen.errors import UserError

MOST = 1000  # labels; more of them are captions
LOOKED_AT = 20_000  # captions of data that is drawn without end


def labels_of(dataset: Dataset) -> tuple[str, ...]:
    """Return the distinct captions of a data set, numbers in order and then words in theirs.

    Raises:
        UserError: there are more than ``MOST``: they describe images instead of naming classes.
    """
    found: set[str] = set()
    for some in islice(dataset.captions(), LOOKED_AT if dataset.endless else None):
        found.update(some)
        if len(found) > MOST:
            raise UserError(
                f"the data has more than {MOST} different captions: they are no labels; name the "
                "column that has the classes as `caption_column`, or give another `t5_name`"
            )
    return tuple(
        sorted(
            found, key=lambda label: (not label.isdecimal(), len(label) * label.isdecimal(), label)
        )
    )
