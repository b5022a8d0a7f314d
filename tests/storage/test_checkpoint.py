"""What is on disk is whole or refused: no crash, no damage and no foreign file gets through."""

import errno
import hashlib
import itertools
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minimagen.errors import UserError
from minimagen.storage import checkpoint, files
from minimagen.storage.checkpoint import (
    MANIFEST,
    STATE,
    TENSORS,
    keep_newest,
    load_weights,
    save_checkpoint,
    save_weights,
)
from minimagen.storage.files import read_json, write_json
from tests.checkpoints import load_checkpoint, load_newest

PREFIX = "unet_0_step_"
STORING = (checkpoint.__file__, files.__file__)


def tensors(seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "model.weight": torch.randn(3, 4, generator=random),
        "transposed": torch.randn(4, 3, generator=random).T,
        "bf16": torch.randn(5, generator=random).bfloat16(),
        "step": torch.tensor(float(seed)),
    }


def saved(parent: Path, step: int) -> Path:
    folder = parent / f"{PREFIX}{step:08d}"
    save_checkpoint(folder, tensors(step), {"step": step, "best_loss": 0.1 * step})
    return folder


def assert_holds(parent: Path, step: int) -> None:
    found = load_newest(parent, PREFIX)
    assert found is not None
    assert found.state == {"step": step, "best_loss": 0.1 * step}
    for name, tensor in tensors(step).items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_round_trip(tmp_path: Path) -> None:
    saved(tmp_path, 9)
    saved(tmp_path, 10)
    assert_holds(tmp_path, 10)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path, PREFIX) is None
    assert load_newest(tmp_path / "nowhere", PREFIX) is None


def test_other_stages_are_not_touched(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    assert load_newest(tmp_path, "unet_1_step_") is None
    keep_newest(tmp_path, "unet_1_step_", 1)
    assert_holds(tmp_path, 1)


@pytest.mark.parametrize("name", [TENSORS, STATE, MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "bit"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    saved(tmp_path, 1)
    path = saved(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[:-1] if damage == "truncated" else b"")
    with pytest.raises(UserError):
        load_checkpoint(path.parent)
    assert_holds(tmp_path, 1)


def test_every_bit_counts(tmp_path: Path) -> None:
    path = saved(tmp_path, 1) / TENSORS
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path.parent)


def test_where_all_are_damaged_nothing_is_made_up(tmp_path: Path) -> None:
    for step in (1, 2):
        (saved(tmp_path, step) / TENSORS).write_bytes(b"")
    with pytest.raises(UserError, match="every checkpoint"):
        load_newest(tmp_path, PREFIX)


def test_a_half_written_one_is_ignored(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    part = tmp_path / f"{PREFIX}00000002.part"
    part.mkdir()
    (part / TENSORS).write_bytes(b"half")
    assert_holds(tmp_path, 1)
    saved(tmp_path, 2)
    assert_holds(tmp_path, 2)
    assert not part.exists()


class KilledError(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


def killed_at(line: int, run: Callable[[], object]) -> bool:
    """Run until the n-th line of ``STORING`` would come; False if there are not so many."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in STORING:
            return None
        left -= event == "line"
        if left < 0:
            raise KilledError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KilledError:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files left open
@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step again"])
def test_killed_at_any_line_no_checkpoint_is_lost(tmp_path: Path, again: bool) -> None:
    step = 2 if again else 3
    for line in itertools.count():
        parent = tmp_path / str(line)
        saved(parent, 1)
        saved(parent, 2)

        def save_and_tidy(parent: Path = parent) -> None:
            saved(parent, step)
            keep_newest(parent, PREFIX, 2)

        if not killed_at(line, save_and_tidy):
            break
        found = load_newest(parent, PREFIX)
        assert found is not None and found.state["step"] in (2, step), line
        assert_holds(parent, found.state["step"])
        save_and_tidy()  # the resumed run comes to the same step
        assert_holds(parent, step)
        assert {p.suffix for p in parent.iterdir()} == {""}
    assert line > 30


def test_killed_at_any_line_weights_are_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "unet_0.safetensors"
    for line in itertools.count():
        save_weights(path, tensors(1), {"step": 1})
        if not killed_at(line, lambda: save_weights(path, tensors(2), {"step": 2})):
            break
        weights = load_weights(path)
        assert torch.equal(weights.tensors["step"], torch.tensor(float(weights.state["step"])))
    assert line > 2


def test_a_planted_pickle_with_a_fitting_manifest_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    saved(tmp_path, 1)
    for step, name in enumerate((TENSORS, STATE, MANIFEST), 2):
        folder = saved(tmp_path, step)
        content = pickle.dumps(Planted(mark))
        (folder / name).write_bytes(content)
        if name != MANIFEST:
            manifest = json.loads((folder / MANIFEST).read_text())
            digest = hashlib.sha256(content).hexdigest()
            manifest[name] = {"bytes": len(content), "sha256": digest}
            (folder / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(UserError):
            load_checkpoint(folder)
    assert_holds(tmp_path, 1)
    assert not mark.exists()


def test_a_manifest_cannot_name_other_files(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)
    manifest = json.loads((folder / MANIFEST).read_text())
    for changed in ({}, [], {TENSORS: manifest[TENSORS]}, manifest | {"../x": {}}):
        (folder / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(UserError, match="manifest"):
            load_checkpoint(folder)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 50, 500, 1000):
        saved(tmp_path, step)
    keep_newest(tmp_path, PREFIX, 2)
    assert sorted(p.name[-4:] for p in tmp_path.iterdir()) == ["0500", "1000"]


@pytest.mark.parametrize("when", ["tensors", "later"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    saved(tmp_path, 1)

    def full(*arguments: Any) -> None:
        if when == "tensors":
            Path(arguments[1]).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    name = "save_file" if when == "tensors" else "_fingerprint"
    monkeypatch.setattr(checkpoint, name, full)
    for step in (1, 2):  # also where the same step is written again
        with pytest.raises(UserError, match="No space left on device"):
            saved(tmp_path, step)
    monkeypatch.undo()
    assert_holds(tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "unet_0.safetensors"
    save_weights(path, tensors(1), {"stage": {"dim": 8}})
    old = path.read_bytes()

    def full(tensors: Any, part: Path, header: Any) -> None:
        part.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_weights(path, tensors(2), {})
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_weights_carry_their_header(tmp_path: Path) -> None:
    path = tmp_path / "unet_0.safetensors"
    header = {"stage": {"dim": 8, "name": "ü", "sizes": [[16, 16]], "none": None}, "step": 3}
    save_weights(path, tensors(1), header)
    weights = load_weights(path)
    assert weights.state == header
    assert torch.equal(weights.tensors["transposed"], tensors(1)["transposed"])


class Planted:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_planted_pickle_does_not_run(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "unet_0.safetensors"
    path.write_bytes(pickle.dumps(Planted(mark)))
    with pytest.raises(UserError, match="not a safetensors file"):
        load_weights(path)
    torch.save(Planted(mark), path)
    with pytest.raises(UserError, match="not a safetensors file"):
        load_weights(path)
    (tmp_path / "imagen.json").write_bytes(pickle.dumps(Planted(mark)))
    with pytest.raises(UserError):
        read_json(tmp_path / "imagen.json")
    assert not mark.exists()


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_json_or_refused(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    try:
        read_json(path)
    except UserError as error:
        assert "\n" not in str(error)


@given(st.binary(max_size=200), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_weights_or_refused(
    tmp_path_factory: Any, content: bytes, header: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    for candidate in (content, header.to_bytes(8, "little") + content):
        path.write_bytes(candidate)
        try:
            load_weights(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_nested_or_endless_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "any.json"
    for content in ("[" * 100_000, "9" * 10_000):
        path.write_text(content)
        with pytest.raises(UserError, match="is not JSON"):
            read_json(path)
    with pytest.raises(UserError, match="cannot read"):
        read_json(tmp_path)


def test_json_round_trip(tmp_path: Path) -> None:
    values = {"sizes": [[16, 16]], "name": "ü", "none": None, "rate": 1e-4}
    write_json(tmp_path / "deep" / "values.json", values)
    assert read_json(tmp_path / "deep" / "values.json") == values
