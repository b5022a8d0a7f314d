"""Files of tensors, written so that no crash leaves a half-written one in the place of a good one.

Only safetensors and JSON: nothing that is read here can run code.

A checkpoint is a folder: ``tensors.safetensors`` (or one file of shards per process, see
``sharded.py``), ``state.json`` and, last, ``manifest.json`` with size and SHA-256 of the others. It
is written beside its place and renamed.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minimagen.errors import UserError
from minimagen.storage.files import begin_folder, cannot_write, finish_folder, read_json, replacing
from minimagen.storage.quantized import dequantized

log = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
AVERAGE = "ema."  # what the names of averaged weights begin with


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write ``tensors`` with ``metadata`` in the header at ``path``, all of it or nothing."""
    header = {key: json.dumps(value) for key, value in metadata.items()}
    with replacing(path) as part:
        save_file(_on_cpu(tensors), part, header)


def load_weights(path: Path) -> Checkpoint:
    """Return the tensors, unpacked if they are in eight bits, and the header of a file.

    Raises:
        UserError: If there is no such file, or it is truncated or not safetensors.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Checkpoint(dequantized(tensors), _header(file))


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a file of weights; see ``load_weights``."""
    with _opened(path) as file:
        return _header(file)


def _header(file: Any) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in (file.metadata() or {}).items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise UserError(
            f"{path} is truncated or not a safetensors file of this project ({error}); "
            "copy it again or take another training directory"
        ) from None


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a complete checkpoint at ``folder``; on any failure what was there before stays.

    Raises:
        UserError: If it cannot be written (disk full, no permission).
    """
    begin_folder(folder)
    finish_checkpoint(folder, state, tensors)


def finish_checkpoint(
    folder: Path, state: dict[str, Any], tensors: dict[str, Tensor] | None = None
) -> None:
    """Add state, manifest and tensors not yet written to what ``begin_folder`` began; put it there.

    Raises:
        UserError: If it cannot be written (disk full, no permission).
    """
    part = folder.with_name(f"{folder.name}.part")
    try:
        if tensors is not None:
            save_file(_on_cpu(tensors), part / TENSORS)
        (part / STATE).write_text(json.dumps(state, indent=2), "utf-8")
        files = {path.name: _fingerprint(path) for path in sorted(part.iterdir())}
        (part / MANIFEST).write_text(json.dumps(files, indent=2), "utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise cannot_write(folder, error) from None
    finish_folder(folder)


def verify(folder: Path) -> None:
    """Check a checkpoint against its manifest, and that its files are of the kinds that are read.

    Raises:
        UserError: If a file is missing, differs from what was written, or is something else.
    """
    manifest = read_json(folder / MANIFEST)
    names = set(manifest) if isinstance(manifest, dict) else set()
    tensors = {name for name in names if name.endswith(".safetensors")}
    if not tensors or names != tensors | {STATE} or any(Path(n).name != n for n in names):
        raise UserError(f"checkpoint {folder} is damaged: its {MANIFEST} is not ours")
    for name, fingerprint in manifest.items():
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder} is incomplete: {name} is missing")
        if _fingerprint(folder / name) != fingerprint:
            raise UserError(f"checkpoint {folder} is damaged: {name} is not what was written")
    if not isinstance(read_json(folder / STATE), dict):
        raise UserError(f"checkpoint {folder} is damaged: {STATE} is not ours")
    for name in tensors:
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except SafetensorError as error:
            raise UserError(f"checkpoint {folder} is damaged: {name}: {error}") from None


def load_averages(folder: Path) -> Checkpoint:
    """Return the averaged weights of a checkpoint, in either form, and what its run was.

    Raises:
        UserError: If it is incomplete, damaged, or too old to hold its run.
    """
    from minimagen.storage import sharded

    verify(folder)
    shapes = {n: s for n, s in sharded.saved_shapes(folder).items() if n.startswith(AVERAGE)}
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    sharded.load_shards(folder, tensors, alone=True)
    averages = {name.removeprefix(AVERAGE): tensor for name, tensor in tensors.items()}
    run = read_json(folder / STATE).get("run")
    if not isinstance(run, dict):
        raise UserError(f"checkpoint {folder} does not hold of which run it is; take another one")
    return Checkpoint(averages, run)


def find_newest(parent: Path, prefix: str) -> Path | None:
    """Return the newest complete checkpoint ``parent/prefix*``, or None; warn of damaged ones.

    Raises:
        UserError: If there are checkpoints, but all are damaged.
    """
    folders = checkpoints(parent, prefix)
    for folder in reversed(folders):
        try:
            verify(folder)
        except UserError as error:
            log.warning("%s; trying the one before", error)
        else:
            return folder
    if folders:
        raise UserError(
            f"every checkpoint {parent / prefix}* is damaged; remove them to train this stage anew"
        )
    return None


def set_aside_after(parent: Path, prefix: str, step: int) -> None:
    """Rename the checkpoints ``parent/prefix*`` of later steps: damaged, or ``step`` was not taken.

    They must not count among the newest when the run goes on from ``step`` in the same directory.
    """
    for folder in checkpoints(parent, prefix):
        if int(folder.stem.removeprefix(prefix)) > step:
            damaged = folder.with_suffix(".damaged")
            shutil.rmtree(damaged, ignore_errors=True)
            folder.rename(damaged)


def keep_newest(parent: Path, prefix: str, count: int) -> None:
    """Delete all but the newest ``count`` checkpoints ``parent/prefix*``."""
    for folder in checkpoints(parent, prefix)[:-count]:
        shutil.rmtree(folder)


def checkpoints(parent: Path, prefix: str) -> list[Path]:
    """Return the finished checkpoint folders, oldest first (their names end in padded steps).

    One that was to be replaced by another of its step counts until the other one is there.
    """
    folders = {f for f in parent.glob(f"{prefix}*") if f.is_dir() and f.suffix in ("", ".old")}
    return sorted(f for f in folders if not f.suffix or f.with_suffix("") not in folders)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
