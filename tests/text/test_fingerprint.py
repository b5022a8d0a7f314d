"""An encoder is known by what its files hold, wherever they lie."""

import os
import shutil
from pathlib import Path

import pytest

from minimagen.text import fingerprint
from minimagen.text.fingerprint import fingerprint_of


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file too large to be read whole."""
    monkeypatch.setattr(fingerprint, "READ_UP_TO", 10_000)
    monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 16)
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text("{}")
    (tmp_path / "t5" / "model.safetensors").write_bytes(bytes(i % 251 for i in range(20_000)))
    return tmp_path / "t5"


def test_a_copy_with_another_date_and_place_is_the_same_encoder(large: Path):
    copy = Path(shutil.copytree(large, large.parent / "elsewhere" / "encoder"))
    os.utime(copy / "model.safetensors", (1, 1))
    assert fingerprint_of(copy, 64) == fingerprint_of(large, 64)


@pytest.mark.parametrize("at", [0, 8, 19_999])
def test_another_start_end_or_length_is_another_encoder(large: Path, at: int):
    before = fingerprint_of(large, 64)
    path = large / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert fingerprint_of(large, 64) != before
    path.write_bytes(content[:-1])
    assert fingerprint_of(large, 64) != before


def test_weights_changed_everywhere_are_another_encoder(large: Path):
    before = fingerprint_of(large, 64)
    path = large / "model.safetensors"
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))
    assert fingerprint_of(large, 64) != before
