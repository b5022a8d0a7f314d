"""Checkpoints, read as a resumed run reads them."""

from pathlib import Path

import torch
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from minimagen.storage.checkpoint import STATE, Checkpoint, find_newest, verify
from minimagen.storage.files import read_json
from minimagen.storage.sharded import load_shards


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return a checkpoint after checking it against its manifest."""
    verify(folder)
    saved = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(each.size, dtype=each.properties.dtype)
        for name, each in saved.items()
        if isinstance(each, TensorStorageMetadata)
    }
    load_shards(folder, tensors, alone=True)
    return Checkpoint(tensors, read_json(folder / STATE))


def load_newest(parent: Path, prefix: str) -> Checkpoint | None:
    """Return the newest complete checkpoint."""
    folder = find_newest(parent, prefix)
    return None if folder is None else load_checkpoint(folder)
