"""Each caption once: on disk, whatever is killed, damaged, shared or full."""

import logging
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from minimagen.errors import UserError
from minimagen.storage import tensor_store as embedding_store
from minimagen.storage.tensor_store import hash_of, store_folder
from minimagen.text.cache import cache as embedding_cache
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.encoding import encode_batch
from minimagen.text.names import T5_MINI
from minimagen.text.pretrained import PretrainedEncoder
from minimagen.training.plan import cache_captions

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


def database(cache: EmbeddingCache) -> Path:
    assert cache.store is not None
    return cache.store.path


def test_a_second_run_asks_the_encoder_nothing_and_gets_the_same_bits() -> None:
    first, second = cached(), cached()
    fresh = encode_batch(first, [*CAPTIONS, *CAPTIONS])
    assert asked(first) == CAPTIONS
    again = encode_batch(second, [*CAPTIONS, *CAPTIONS])
    assert asked(second) == [] and second.encoded == 0
    assert torch.equal(fresh.embeds, again.embeds) and torch.equal(fresh.mask, again.mask)
    without = encode_batch(EmbeddingCache(Counting()), [*CAPTIONS, *CAPTIONS])
    assert torch.equal(without.embeds, again.embeds)


def test_the_cache_of_an_encoder_that_was_trained_since_is_replaced() -> None:
    imagen: Any = SimpleNamespace(text_encoder=Counting())
    cache_captions(imagen, endless=False)
    first = imagen.text_encoder
    cache_captions(imagen, endless=False)
    assert imagen.text_encoder is first
    encode_batch(first, CAPTIONS[:2])
    first.encoder.fingerprint = "two"
    cache_captions(imagen, endless=False)
    assert imagen.text_encoder is not first and imagen.text_encoder.encoder is first.encoder
    encode_batch(imagen.text_encoder, CAPTIONS[:2])
    assert asked(first) == [*CAPTIONS[:2], *CAPTIONS[:2]]  # those of before are not taken
    assert database(first) != database(imagen.text_encoder)


def test_an_embedding_is_the_same_in_any_company_fresh_or_stored() -> None:
    encoder = PretrainedEncoder("t5_mini")
    captions = ["a red star", "a large blue ring on a plain green background", "", "zwölf 東京"]
    fresh = encode_batch(encoder, captions)
    cache = EmbeddingCache.on_disk(encoder)
    encode_batch(cache, captions[2:])
    for company in (captions, captions[::-1], captions[1:2]):
        text = encode_batch(EmbeddingCache.on_disk(encoder), company)
        for caption, embeds, mask in zip(company, text.embeds, text.mask, strict=True):
            row = captions.index(caption)
            assert torch.equal(embeds[mask], fresh.embeds[row][fresh.mask[row]])


def test_the_database_holds_ragged_bf16_without_padding() -> None:
    cache = cached()
    encode_batch(cache, CAPTIONS)
    with closing(sqlite3.connect(database(cache))) as opened:
        rows = opened.execute("SELECT hash, tokens, length(embeds) FROM captions").fetchall()
    lengths = {hash_of(caption): len(caption.split()) for caption in CAPTIONS}
    assert {key: tokens for key, tokens, _ in rows} == lengths
    assert all(size == 12 * tokens for _, tokens, size in rows)


def test_another_encoder_or_length_has_another_folder(tmp_path: Path) -> None:
    def folder(encoder: PretrainedEncoder) -> Path:
        return store_folder(encoder.name, encoder.fingerprint)

    copy = Path(shutil.copytree(T5_MINI, tmp_path / "copy"))
    same = folder(PretrainedEncoder(str(copy))).name.partition("-")[2]
    assert folder(PretrainedEncoder()).name == f"t5_mini-{same}"
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    others = {
        folder(PretrainedEncoder(str(copy))),
        folder(PretrainedEncoder("t5_mini", 32)),
        folder(PretrainedEncoder()),
    }
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
for i in range(10**9):
    encode_batch(cache, [f"star {i} {j}" for j in range(50)])
    print(i, flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_what_was_encoded_before_a_kill_stays(caplog: pytest.LogCaptureFixture) -> None:
    process = start(KILLED)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cache = cached()
    with caplog.at_level(logging.WARNING):
        encode_batch(cache, [f"star {i} {j}" for i in range(int(lines[-1]) + 1) for j in range(50)])
    assert asked(cache) == [] and not caplog.records


KILLED_WRITING = """
import os, sys, torch
from tests.text.cache.test_cache import CAPTIONS, cached, hash_of

class Killing(dict):
    def items(self):
        yield from super().items()
        os.kill(os.getpid(), 9)

store = cached().store
store.find([])
embeds = {hash_of(str(i)): torch.ones(10, 600).bfloat16() for i in range(1000)}  # 12 MB
store.add(Killing({hash_of(CAPTIONS[0]): torch.ones(2, 6).bfloat16()} | embeds))
"""


def test_what_a_killed_process_had_half_written_is_undone(caplog: pytest.LogCaptureFixture) -> None:
    cache = cached()
    encode_batch(cache, CAPTIONS[1:])
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITING], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    journal = database(cache).with_name("captions.sqlite-journal")
    assert database(cache).stat().st_size > 2**20 and journal.stat().st_size > 0
    again = cached()
    with caplog.at_level(logging.WARNING):
        encode_batch(again, CAPTIONS)
    assert asked(again) == CAPTIONS[:1] and not caplog.records
    assert again.store is not None and len(again.store) == len(CAPTIONS)


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
    assert os.listdir(database(cache).parent) == ["captions.sqlite"]


def test_one_process_sees_what_another_has_added_meanwhile() -> None:
    first, second = cached(), cached()
    encode_batch(first, CAPTIONS[:20])
    encode_batch(second, CAPTIONS[:30])
    assert asked(second) == CAPTIONS[20:30]
    encode_batch(first, CAPTIONS)
    assert asked(first) == CAPTIONS[:20] + CAPTIONS[30:]


def test_no_connection_outlives_a_call_so_forked_and_spawned_workers_share_none() -> None:
    cache = cached()
    encode_batch(cache, CAPTIONS)
    if Path("/proc/self/fd").exists():
        opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
        assert str(database(cache)) not in opened
    copy = pickle.loads(pickle.dumps(cache.store))
    assert copy.find([hash_of(CAPTIONS[0])]).keys() == {hash_of(CAPTIONS[0])}


DAMAGE = {
    "empty": lambda content: b"",
    "5 bytes": lambda content: content[:5],
    "100 bytes": lambda content: content[:100],
    "1 page": lambda content: content[:16384],
    "2 pages": lambda content: content[:32768],
    "another file": lambda content: b"\xff" * 5000,
    "another table": lambda content: content.replace(b"TABLE captions", b"TABLE captionz"),
    "other columns": lambda content: content.replace(b"hash BLOB", b"Hush BLOB"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_database_is_reported_set_aside_and_made_again(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cached()
    fresh = encode_batch(cache, CAPTIONS)
    path = database(cache)
    damaged = DAMAGE[how](path.read_bytes())
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        again = cached()
        assert torch.equal(encode_batch(again, CAPTIONS).embeds, fresh.embeds)
    assert asked(again) == CAPTIONS
    if how != "empty":  # an empty file is a new database
        assert len(caplog.records) == 1 and f"{path} is damaged" in caplog.text
        assert path.with_suffix(".damaged").read_bytes() == damaged
    last = cached()
    encode_batch(last, CAPTIONS)
    assert asked(last) == []


def test_any_flipped_bit_is_seen() -> None:
    captions = CAPTIONS[:8]
    cache = cached()
    fresh = encode_batch(cache, captions)
    path = database(cache)
    good = path.read_bytes()
    used = [i for i in range(len(good)) if good[i : i + 4] != bytes(4)]
    for at in [*range(16, 110, 3), *used[110::5]]:
        damaged = bytearray(good)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        assert torch.equal(encode_batch(cached(), captions).embeds, fresh.embeds), at


def test_a_damaged_encoding_is_reported_once_and_encoded_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = cached()
    fresh = encode_batch(cache, CAPTIONS)
    with closing(sqlite3.connect(database(cache))) as opened, opened:
        for row, change in enumerate(("embeds = zeroblob(12)", "tokens = 'x'", "embeds = NULL"), 1):
            opened.execute(f"UPDATE captions SET {change} WHERE rowid = {row}")
    with caplog.at_level(logging.WARNING):
        again = cached()
        assert torch.equal(encode_batch(again, CAPTIONS).embeds, fresh.embeds)
    assert asked(again) == CAPTIONS[:3] and len(caplog.records) == 1
    last = cached()
    assert torch.equal(encode_batch(last, CAPTIONS).embeds, fresh.embeds) and asked(last) == []


def test_a_database_that_stays_locked_is_reported_once_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedding_store, "PATIENCE", 0.01)
    encode_batch(cached(), CAPTIONS)
    cache = cached()
    with closing(sqlite3.connect(database(cache))) as opened, caplog.at_level(logging.WARNING):
        opened.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            encode_batch(cache, CAPTIONS)
    assert asked(cache) == CAPTIONS and len(caplog.records) == 1
    assert "database is locked" in caplog.text
    assert cache.store is not None and cache.store.find([hash_of(CAPTIONS[0])]) == {}
    last = cached()
    encode_batch(last, CAPTIONS)
    assert asked(last) == []


def test_a_database_that_cannot_be_written_is_still_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode_batch(cached(), CAPTIONS[:20])
    monkeypatch.setattr(embedding_store, "TABLE", "PRAGMA query_only = 1")
    cache = cached()
    with caplog.at_level(logging.WARNING):
        for caption in CAPTIONS:
            encode_batch(cache, [caption])
    assert asked(cache) == CAPTIONS[20:] and len(caplog.records) == 1
    assert "readonly" in caplog.text


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
    monkeypatch.setattr(embedding_cache, "DRAWN_ON_DISK", 100_000)
    cache = cached(endless=True)
    for i in range(400):
        encode_batch(cache, [" ".join([f"star {i}"] * 50)])  # 1,200 bytes
    assert cache.store is not None and cache.store.refused is None
    assert 100_000 <= cache.store.size < 100_000 + 4 * embedding_store.PAGE_BYTES


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
    monkeypatch.setattr(embedding_store, "PAGE_BYTES", 512)
    cache = cached()
    encode_batch(cache, CAPTIONS[:20])
    usage = shutil.disk_usage("/")._replace(free=10) if hasattr(shutil, "_ntuple_diskusage") else 0
    if full:
        monkeypatch.setattr(embedding_store, "TABLE", "PRAGMA max_page_count = 1")
    else:
        monkeypatch.setattr(embedding_store.shutil, "disk_usage", lambda _: usage)
    with caplog.at_level(logging.WARNING):
        for caption in CAPTIONS:
            encode_batch(cache, [caption])
        encode_batch(cache, CAPTIONS)
    assert asked(cache) == CAPTIONS and len(caplog.records) == 1
    assert ("disk is full" if full else "nearly full") in caplog.text


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
