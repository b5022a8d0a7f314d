"""Bad samples are skipped, counted, named, and fatal above a stated share."""

import logging
from collections.abc import Sequence

from minimagen.errors import UserError

BAD_SHARE = 0.05  # more than this, and the data is not what the user thinks it is
NAMED = 10  # bad samples named in the log
JUDGED_FROM = 100  # samples read before the share means something

log = logging.getLogger(__name__)


class BadSamples:
    """Counts the bad samples of a run as they come up, and names the first of them."""

    def __init__(self) -> None:
        self.bad = self.total = 0
        self.named: list[str] = []

    def add(self, reasons: Sequence[str], total: int) -> None:
        """Count ``reasons``, one line each, among ``total`` samples read.

        Raises:
            UserError: more than 5 % of at least 100 samples are bad.
        """
        self.total += total
        self.bad += len(reasons)
        for reason in reasons:
            if len(self.named) < NAMED and reason not in self.named:
                self.named.append(reason)
                log.warning("skipped %s", reason)
        if self.total >= JUDGED_FROM and self.bad > BAD_SHARE * self.total:
            raise UserError(
                f"{self.bad} of {self.total} images are bad, more than {BAD_SHARE:.0%}: repair "
                "or remove them (python -m minimagen data check finds them); the first: "
                f"{self.named[0]}"
            )
