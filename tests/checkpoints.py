"""Checkpoints, read as a resumed run reads them."""

from pathlib import Path

from minimagen.storage.checkpoint import Checkpoint, find_newest, read_checkpoint, verify


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return a checkpoint after checking it against its manifest."""
    verify(folder)
    return read_checkpoint(folder)


def load_newest(parent: Path, prefix: str) -> Checkpoint | None:
    """Return the newest complete checkpoint."""
    folder = find_newest(parent, prefix)
    return None if folder is None else read_checkpoint(folder)
