"""Tensors that no process holds whole, through torch's distributed checkpoint, as safetensors.

Every process writes one file with its shards; any number of processes can read them, one alone too,
and each gets the shards that it asks for.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from minimagen.errors import UserError
from minimagen.storage.files import cannot_write


def save_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this process's shards into ``folder``; every process must call it.

    Raises:
        UserError: If any process cannot write, in all of them.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp.save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise cannot_write(folder, next(iter(error.failures.values()))[0]) from None


def load_shards(folder: Path, into: Mapping[str, Tensor], alone: bool = False) -> None:
    """Fill the tensors ``into``, whole or sharded, from a checkpoint in either form.

    Args:
        folder: The checkpoint.
        into: Their shapes must be those that were saved.
        alone: Whether one process reads for itself; otherwise every process must call it.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with warnings.catch_warnings():  # its warning that one process reads alone
            warnings.filterwarnings("ignore", message="torch.distributed is")
            reader = HuggingFaceStorageReader(str(folder))
            dcp.load(dict(into), storage_reader=reader, no_dist=alone)
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        raise UserError(f"cannot read checkpoint {folder}: {reason}") from None


def saved_shapes(folder: Path) -> dict[str, torch.Size]:
    """Return the whole shape of every tensor of a checkpoint in either form."""
    saved = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {n: each.size for n, each in saved.items() if isinstance(each, TensorStorageMetadata)}
