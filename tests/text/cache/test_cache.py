"""Each caption once: on disk, whatever is killed, damaged, shared or full."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from minimagen.errors import UserError
from minimagen.text.cache import cache as embedding_cache
from minimagen.text.cache import store as embedding_store
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.cache.segments import open_segment
from minimagen.text.cache.store import EmbeddingStore, hash_of, store_folder
from minimagen.text.encoding import encode_batch
from minimagen.text.t5 import T5Encoder
from minimagen.text.t5_files import T5_MINI

ROOT = Path(__file__).parents[3]
CAPTIONS = [" ".join(["star"] * (1 + i % 7) + [str(i)]) for i in range(40)]


class Counting:
    """A text encoder of random words that notes what it was asked for."""

    name, embed_dim, fingerprint = "counting", 6, "one"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        self.asked += captions
        return [torch.stack([self._word(w) for w in c.split()]) for c in captions]

    def _word(self, word: str) -> Tensor:
        return torch.randn(6, generator=torch.Generator().manual_seed(hash_of(word)[0]))


def cached(**options: Any) -> EmbeddingCache:
    return EmbeddingCache.on_disk(Counting(), **options)


def asked(cache: EmbeddingCache) -> list[str]:
    assert isinstance(cache.encoder, Counting)
    return cache.encoder.asked


def segments(cache: EmbeddingCache) -> list[Path]:
    assert cache.store is not None
    return sorted(cache.store.folder.glob("*.safetensors"))


def test_a_second_run_asks_the_encoder_nothing_and_gets_the_same_bits() -> None:
    first, second = cached(), cached()
    fresh = encode_batch(first, [*CAPTIONS, *CAPTIONS])
    assert asked(first) == CAPTIONS
    again = encode_batch(second, [*CAPTIONS, *CAPTIONS])
    assert asked(second) == [] and second.encoded == 0
    assert torch.equal(fresh.embeds, again.embeds) and torch.equal(fresh.mask, again.mask)
    without = encode_batch(EmbeddingCache(Counting()), [*CAPTIONS, *CAPTIONS])
    assert torch.equal(without.embeds, again.embeds)


def test_an_embedding_is_the_same_in_any_company_fresh_or_stored() -> None:
    encoder = T5Encoder("t5_mini")
    captions = ["a red star", "a large blue ring on a plain green background", "", "zwölf 東京"]
    fresh = encode_batch(encoder, captions)
    cache = EmbeddingCache.on_disk(encoder)
    encode_batch(cache, captions[2:])
    for company in (captions, captions[::-1], captions[1:2]):
        text = encode_batch(EmbeddingCache.on_disk(encoder), company)
        for caption, embeds, mask in zip(company, text.embeds, text.mask, strict=True):
            row = captions.index(caption)
            assert torch.equal(embeds[mask], fresh.embeds[row][fresh.mask[row]])


def test_a_segment_is_ragged_bf16_that_other_programs_can_read() -> None:
    cache = cached()
    encode_batch(cache, CAPTIONS)
    (path,) = segments(cache)
    tensors = load_file(path)
    tokens = sum(len(caption.split()) for caption in CAPTIONS)
    assert tensors["embeds"].dtype == torch.bfloat16 and tensors["embeds"].shape == (tokens, 6)
    assert path.stat().st_size < tokens * 12 + 32 * len(CAPTIONS) + 1000


def test_another_encoder_or_length_has_another_folder(tmp_path: Path) -> None:
    def folder(encoder: T5Encoder) -> Path:
        return store_folder(encoder.name, encoder.fingerprint)

    copy = Path(shutil.copytree(T5_MINI, tmp_path / "copy"))
    same = folder(T5Encoder(str(copy))).name.partition("-")[2]
    assert folder(T5Encoder()).name == f"t5_mini-{same}"
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    others = {folder(T5Encoder(str(copy))), folder(T5Encoder("t5_mini", 32)), folder(T5Encoder())}
    assert len(others) == 3


def test_a_revision_of_the_hub_is_known_by_its_commit(tmp_path: Path) -> None:
    from minimagen.text.fingerprint import fingerprint_of

    folders = [tmp_path / "models--a--b" / "snapshots" / commit for commit in ("1f", "2e")]
    assert len({fingerprint_of(f, n) for f in folders for n in (16, 64)}) == 4


KILLED = """
from minimagen.text.encoding import encode_batch
import sys, torch
from tests.text.cache.test_cache import Counting, cached
cache = cached()
print(cache.store.folder, flush=True)
for i in range(10**9):
    encode_batch(cache, [f"star {i} {j}" for j in range(50)])
    print(i, flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_a_kill_loses_no_more_than_the_next_segment_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = start(KILLED)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cache = cached()
    waited_for = embedding_store.WAITED_FOR * len(segments(cache))
    with caplog.at_level(logging.WARNING):
        encode_batch(cache, [f"star {i} {j}" for i in range(int(lines[-1]) + 1) for j in range(50)])
    assert len(asked(cache)) < waited_for < 29 * 50 and not caplog.records


def test_an_unfinished_file_is_not_read_and_one_day_removed() -> None:
    cache = cached()
    encode_batch(cache, CAPTIONS)
    (path,) = segments(cache)
    part = path.with_name("0.part")
    part.write_bytes(path.read_bytes()[:100])
    assert cached().store and part.exists()
    old = time.time() - 2 * embedding_store.ABANDONED_AFTER
    os.utime(part, (old, old))
    assert cached().store and not part.exists()


TOGETHER = """
from minimagen.text.encoding import encode_batch
import sys
from tests.text.cache.test_cache import cached
cache = cached()
sys.stdin.readline()
for i in range(20):
    encode_batch(cache, [f"star {i} {j}" for j in range(20)])
"""


def test_processes_write_the_same_captions_at_once(caplog: pytest.LogCaptureFixture) -> None:
    command = [sys.executable, "-c", TOGETHER]
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        process.communicate(b"go\n")
    assert [process.returncode for process in processes] == [0, 0]
    cache = cached()
    captions = [f"star {i} {j}" for i in range(20) for j in range(20)]
    with caplog.at_level(logging.WARNING):
        text = encode_batch(cache, captions)
    assert asked(cache) == [] and not caplog.records
    assert torch.equal(text.embeds, encode_batch(EmbeddingCache(Counting()), captions).embeds)
    assert not list(segments(cache)[0].parent.glob("*.part"))


def test_one_process_sees_what_another_has_added_meanwhile() -> None:
    first, second = cached(), cached()
    encode_batch(first, CAPTIONS[:20])
    encode_batch(second, CAPTIONS[:30])
    assert asked(second) == CAPTIONS[20:30]
    encode_batch(first, CAPTIONS)
    assert asked(first) == CAPTIONS[:20] + CAPTIONS[30:]


@pytest.mark.parametrize("kept", [0, 5, 100, 700, -1])
def test_a_truncated_segment_is_reported_removed_and_made_again(
    kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cached()
    fresh = encode_batch(cache, CAPTIONS)
    (path,) = segments(cache)
    path.write_bytes(path.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING):
        again = cached()
        assert torch.equal(encode_batch(again, CAPTIONS).embeds, fresh.embeds)
    assert asked(again) == CAPTIONS and len(caplog.records) == 1
    assert path.name in caplog.text and not path.exists()
    last = cached()
    encode_batch(last, CAPTIONS)
    assert asked(last) == []


def test_any_flipped_bit_is_seen() -> None:
    cache = cached()
    fresh = encode_batch(cache, CAPTIONS)
    (path,) = segments(cache)
    good = path.read_bytes()
    for at in [*range(0, 600, 3), *range(600, len(good), 97), len(good) - 1]:
        damaged = bytearray(good)
        damaged[at] ^= 1 << at % 8
        for other in segments(cache):
            other.unlink()
        path.write_bytes(damaged)
        again = cached()
        assert torch.equal(encode_batch(again, CAPTIONS).embeds, fresh.embeds), at
        assert len(asked(again)) in (1, len(CAPTIONS)), at
        del again  # which writes what it encoded


def test_a_damaged_encoding_is_reported_once_and_encoded_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = cached()
    fresh = encode_batch(cache, CAPTIONS)
    (path,) = segments(cache)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    content[-500] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = cached()
        encode_batch(again, CAPTIONS)
    assert len(asked(again)) == 2 and len(caplog.records) == 1
    del again  # what waited for more is written
    last = cached()
    assert torch.equal(encode_batch(last, CAPTIONS).embeds, fresh.embeds) and asked(last) == []


def test_segments_stay_few_however_few_captions_come_at_a_time() -> None:
    """With a segments, the next one waits for 8 a captions: n captions make sqrt(n / 4)."""
    store = EmbeddingStore(store_folder("few", "one"))
    hashes = [hash_of(str(i)) for i in range(1600)]
    for each in hashes:
        store.add({each: torch.ones(1, 6, dtype=torch.bfloat16)})
        assert store.find([each]).keys() == {each}
    assert len(store) == 1600 and store.size == 1600 * 12
    assert len(os.listdir(store.folder)) <= 1 + (1600 / 4) ** 0.5
    del store
    again = EmbeddingStore(store_folder("few", "one"))
    assert len(again.find(hashes)) == 1600


def test_a_segment_waits_for_a_limited_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_store, "ENOUGH", 120)
    store = EmbeddingStore(store_folder("bytes", "one"))
    for i in range(100):
        store.add({hash_of(str(i)): torch.ones(1, 6, dtype=torch.bfloat16)})
    assert len(os.listdir(store.folder)) >= 10


def test_what_was_forgotten_in_memory_is_found_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "BESIDE_DISK", 100)
    monkeypatch.setattr(embedding_cache, "ALONE", 100)
    cache, alone = cached(), EmbeddingCache(Counting())
    for each in (cache, alone):
        each.fill(CAPTIONS)
        encode_batch(each, CAPTIONS[:4])
        assert asked(each) == CAPTIONS  # what was asked for last stays in memory
        encode_batch(each, ["something else"])
        encode_batch(each, CAPTIONS[:4])
    assert len(asked(cache)) == len(CAPTIONS) + 1
    assert len(asked(alone)) == len(CAPTIONS) + 5


def test_captions_without_end_do_not_fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "DRAWN_ON_DISK", 1000)
    cache = cached(endless=True)
    for caption in CAPTIONS:
        encode_batch(cache, [caption])
    assert cache.store is not None and 1000 <= cache.store.size < 1000 + 8 * 12
    assert cache.store.refused is None


def test_without_a_folder_that_can_be_written_memory_is_used_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MINIMAGEN_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        cache = cached()
        for _ in range(3):
            encode_batch(cache, CAPTIONS)
    assert asked(cache) == CAPTIONS
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "text embeddings are kept in memory only"
    ]


@pytest.mark.parametrize("full", [True, False])
def test_a_disk_that_fills_up_ends_the_writing_with_one_warning(
    full: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cached()
    encode_batch(cache, CAPTIONS[:20])

    def no_space(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    usage = shutil.disk_usage("/")._replace(free=10) if hasattr(shutil, "_ntuple_diskusage") else 0
    if full:
        monkeypatch.setattr(embedding_store, "write_segment", no_space)
    else:
        monkeypatch.setattr(embedding_store.shutil, "disk_usage", lambda _: usage)
    with caplog.at_level(logging.WARNING):
        for caption in CAPTIONS:
            encode_batch(cache, [caption])
        encode_batch(cache, CAPTIONS)
    assert asked(cache) == CAPTIONS and len(caplog.records) == 1
    assert ("No space left" if full else "nearly full") in caplog.text


def test_a_folder_of_something_else_is_no_segment(tmp_path: Path) -> None:
    from minimagen.text.cache.segments import DamagedSegmentError

    for content in (b"", b"{}", b"\xff" * 5000, (9).to_bytes(8, "little") + b'{"a": []}'):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(DamagedSegmentError):
            open_segment(tmp_path / "x")


MEMORY = """
from minimagen.text.encoding import encode_batch
import sys, torch
from minimagen.text.cache import cache as embedding_cache
from minimagen.text.cache.cache import EmbeddingCache
from tests.text.cache.test_cache import Counting

class Cheap(Counting):
    def encode(self, captions):
        return [torch.full((12, 128), float(len(c))) for c in captions]

def private():
    fields = dict(line.split()[:2] for line in open("/proc/self/status") if ":" in line and
                  line.startswith("Rss"))
    return int(fields["RssAnon:"]) / 1024

embedding_cache.BESIDE_DISK = 2**22
for run in range(2):  # the first writes, the second reads
    cache = EmbeddingCache.on_disk(Cheap())
    for start in range(0, int(sys.argv[1]), 512):
        encode_batch(cache, [f"{sys.argv[1]} {i}" for i in range(start, start + 512)])
print(private())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="private memory is Linux's")
def test_memory_does_not_grow_with_the_number_of_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (float(start(MEMORY, n).communicate()[0]) for n in ("8000", "32000"))
    assert many < few + 12, (few, many)  # MiB; 24,000 captions are 70 MiB


def test_the_store_must_be_writable_for_data_encode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MINIMAGEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="MINIMAGEN_CACHE"):
        store_folder("t5_mini", "x")
