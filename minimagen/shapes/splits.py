"""Splits of the embedded data set: fixed by a combination's name."""

import hashlib


def split_by_hash(combination: str) -> str:
    """Return the split of a combination: about 80 % train, 10 % tune, 10 % heldout."""
    # A cryptographic hash, because hash() differs between runs and Python versions.
    digest = hashlib.sha256(combination.encode()).digest()
    return {0: "tune", 1: "heldout"}.get(int.from_bytes(digest[:8], "big") % 10, "train")
