"""Tar shards: img2dataset's layout is read, nothing else is, and damage is counted, not fatal."""

import contextlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from minimagen.data.dataset import BadSampleError
from minimagen.data.images.dataset import Row
from minimagen.data.images.stream import ImageStream
from minimagen.data.loading.batches import training_batches
from minimagen.data.open import load_dataset
from minimagen.data.sources import shards
from minimagen.data.sources.shard_names import expand
from minimagen.data.sources.shards import Member, read_shard
from minimagen.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core


def png(gray: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), gray).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def img2dataset(numbers: range) -> list[tuple[str, bytes]]:
    """Members as img2dataset writes them: image, json, txt."""
    members = []
    for i in numbers:
        written = json.dumps({"caption": f"json {i}", "variants": [f"{i} a", f"{i} b"], "key": i})
        members += [(f"{i:09d}.png", png(i)), (f"{i:09d}.json", written.encode())]
        members += [(f"{i:09d}.txt", f"gray {i}".encode())]
    return members


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(4):
        write_tar(tmp_path / f"{shard:05d}.tar", img2dataset(range(50 * shard, 50 * shard + 50)))
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    return tmp_path


def captions(found: Iterator[Row | BadSampleError]) -> list[str]:
    return [row.captions[0] for row in found if isinstance(row, Row)]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_shard_gives_its_images_and_captions(tmp_path: Path, mode: str) -> None:
    path = str(write_tar(tmp_path / "a.tar", img2dataset(range(3)), mode))
    rows = [row for row in read_shard(path) if isinstance(row, Row)]
    assert [row.captions for row in rows] == [("gray 0",), ("gray 1",), ("gray 2",)]
    assert [row.image for row in rows] == [png(i) for i in range(3)]
    assert rows[1].name == f"{path}/000000001"
    variants = [row for row in read_shard(path, "variants") if isinstance(row, Row)]
    assert variants[2].captions == ("2 a", "2 b")
    assert captions(read_shard(path, "caption")) == ["json 0", "json 1", "json 2"]


def test_every_way_to_name_shards_means_the_same(folder: Path) -> None:
    names = [str(folder / f"{i:05d}.tar") for i in range(4)]
    assert list(expand(str(folder / "{00000..00003}.tar"))) == names
    assert list(expand(str(folder / "*.tar"))) == names
    assert expand("s3://b/{08..11}/{1..2}.tar")[:3] == (
        "s3://b/08/1.tar", "s3://b/08/2.tar", "s3://b/09/1.tar"
    )  # fmt: skip
    for name in (folder, f"file://{folder}/{{00000..00003}}.tar", folder / "{00000..00003}.tar"):
        stream = load_dataset(name, (8, 8))
        assert isinstance(stream, ImageStream)
        assert captions(stream.source.once()) == [f"gray {i}" for i in range(200)]


def test_shards_are_resampled_and_shuffled_by_the_seed(
    folder: Path, text_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BUFFER", 60)
    train, valid = load_dataset(folder, (8, 8)).split(0.8, count=20)

    def grays(seed: int, start: int, workers: int = 0) -> list[int]:
        batches = training_batches(train, text_encoder, 50, seed, start, start + 20, workers)
        return [int(image[0, 0, 0]) for batch in batches for image in batch.images]

    seen = grays(0, 0)
    assert seen == grays(0, 0) and seen != grays(1, 0) and seen != grays(0, 3)
    held_out = {int(valid[i].image[0, 0, 0]) for i in range(len(valid))}
    assert len(held_out) == 20 and not held_out & set(seen)
    assert 140 < len(set(seen)) < 180
    assert len({number // 50 for number in seen[:60]}) > 1  # shards are mixed
    parallel = grays(0, 0, workers=2)
    assert 140 < len(set(parallel)) < 180 and parallel == grays(0, 0, workers=2)


def test_validation_shards_stay_apart(folder: Path) -> None:
    (folder / "train").mkdir()
    for shard in range(3):
        (folder / f"{shard:05d}.tar").rename(folder / "train" / f"{shard:05d}.tar")
    (folder / "validation").mkdir()
    (folder / "00003.tar").rename(folder / "validation" / "00003.tar")
    train, valid = load_dataset(folder, (8, 8)).split(0.5)
    assert isinstance(train, ImageStream)
    assert len(captions(train.source.once())) == 150
    assert [valid[i].caption for i in range(len(valid))] == [f"gray {i}" for i in range(150, 200)]


def test_programs_are_refused_and_missing_shards_explained(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for name in (f"pipe:touch {ran}; cat x.tar", f"pipe:touch {ran} #.tar"):
        with pytest.raises(UserError, match="would start a program"):
            load_dataset(name)
    assert not ran.exists()
    with pytest.raises(UserError, match="no tar shards"):
        load_dataset(str(tmp_path / "*.tar"))
    stream = load_dataset(str(tmp_path / "{0..9}.tar"))
    assert isinstance(stream, ImageStream)
    with pytest.raises(UserError, match="5 shards in a row cannot be read.*No such file"):
        list(stream.source.shuffled(0, 0, 1))


def test_only_images_texts_and_json_are_read(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    planted = pickle.dumps(Planted())
    members = [("a.png", png(1)), ("a.pyd", planted), ("a.pickle", planted), ("a.txt", b"one")]
    members += [
        ("b.jpg", planted),
        ("b.txt", b"two"),
        ("../../c.png", png(2)),
        ("../../c.txt", b"c"),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("d.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    rows = list(read_shard(str(path)))
    assert [row.captions[0] for row in rows if isinstance(row, Row)] == ["one", "two", "c"]
    assert not (tmp_path / "ran").exists() and not (tmp_path.parent.parent / "c.png").exists()


def test_bad_members_are_reasons_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MEMBER_BYTES", 1000)
    members = [("a.png", png(1)), ("b.png", png(2)), ("b.txt", b"\xff"), ("c.png", bytes(1001))]
    members += [("c.txt", b"c"), ("d.png", png(3)), ("d.json", b"["), ("e.png", png(4))]
    members += [("e.json", b'{"caption": 3}'), ("f.png", png(5)), ("f.txt", b" fine \n one ")]
    members += [("g.png", png(5)), ("g.json", b'{"text": "\\ud800"}'), ("h.txt", b"no image")]
    rows = list(read_shard(str(write_tar(tmp_path / "a.tar", members))))
    bad = [str(row) for row in rows if isinstance(row, BadSampleError)]
    assert captions(iter(rows)) == ["fine one"]
    assert [reason.partition("a.tar/")[2][0] for reason in bad] == list("abcdeg")


def pairs(*keys: str) -> list[tuple[str, bytes]]:
    return [(f"{key}{end}", content) for key in keys
            for end, content in ((".png", png(1)), (".txt", key.encode()))]  # fmt: skip


@pytest.mark.parametrize(
    "keys",
    [
        ["22.00", "22.01", "22.02"],  # all of one group of WebDataset's
        ["a", "22.01", "b", "22.02"],
        ["v1.2/a.b", "v1.2/a.c", "v1.3/a"],
        ["22", "22.01"],
    ],
)
def test_dots_in_keys_are_understood(tmp_path: Path, keys: list[str]) -> None:
    rows = read_shard(str(write_tar(tmp_path / "a.tar", pairs(*keys))))
    assert sorted(captions(rows)) == sorted(keys)


def test_a_second_image_of_a_sample_is_no_sample(tmp_path: Path) -> None:
    members = [("a.depth.png", png(2)), ("a.png", png(1)), ("a.seg.png", png(2)), ("a.txt", b"a")]
    members += [("b.1.png", png(3)), ("b.txt", b"b")]
    rows = list(read_shard(str(write_tar(tmp_path / "a.tar", members))))
    assert [row.image for row in rows if isinstance(row, Row)] == [png(1)]
    (bad,) = [str(row) for row in rows if isinstance(row, BadSampleError)]
    assert "a.tar/b.1: no caption" in bad


APART = [member for end in (".png", ".txt") for member in pairs(*"abcdefgh") if end in member[0]]


@pytest.mark.parametrize(
    "members, reason",
    [
        (APART, "a: no caption; the files of a sample must be neighbors.*tar --sort=name"),
        ([], "0.tar: no image in it"),
        ([("a.txt", b"a"), ("b.txt", b"b"), ("x.bin", b"")], "no image in it, only 2 txt files"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_wrong_with_all_of_a_shard_is_the_reason_that_training_gives(
    tmp_path: Path, members: list[tuple[str, bytes]], reason: str, text_encoder: Any
) -> None:
    (tmp_path / "good").mkdir()
    write_tar(tmp_path / "bad" / "train" / "0.tar", members)
    write_tar(tmp_path / "bad" / "val" / "0.tar", pairs("a", "b"))
    with pytest.raises(UserError, match=reason):
        load_dataset(tmp_path / "bad" / "train").split()
    train, _ = load_dataset(tmp_path / "bad").split()
    with pytest.raises(UserError, match=reason):  # and it ends
        next(iter(training_batches(train, text_encoder, 2, 0, 0, 1)))


def test_a_truncated_shard_gives_what_it_has_and_is_told(folder: Path) -> None:
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[: len(whole) // 2 + 100])
    stream = load_dataset(folder, (8, 8))
    assert isinstance(stream, ImageStream)
    rows = list(stream.source.once())
    assert 165 < len(captions(iter(rows))) < 180
    (lost,) = [str(row) for row in rows if isinstance(row, BadSampleError)]
    assert "00001.tar" in lost


def test_a_broken_connection_is_taken_up_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(shards.time, "sleep", pauses.append)

    class Cut(io.BytesIO):
        """Breaks off in the middle the first two times."""

        broken = 0

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 40_000 and Cut.broken < 2:
                Cut.broken += 1
                raise ConnectionResetError("reset by peer")
            return super().read(size)

    content = (folder / "00000.tar").read_bytes()
    monkeypatch.setattr(shards, "_opened", lambda shard: Cut(content))
    assert captions(read_shard("http://somewhere/0.tar")) == [f"gray {i}" for i in range(50)]
    assert pauses == [1.0, 2.0]


kinds = st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])


@settings(max_examples=200, deadline=None)
@given(
    members=st.lists(
        st.tuples(st.text("ab/.ü雪 ", min_size=1, max_size=260), kinds, st.binary(max_size=600)),
        max_size=6,
    ),
    layout=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    damage=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=2),
)
def test_headers_are_read_as_tarfile_reads_them(
    members: list[tuple[str, bytes, bytes]], layout: int, damage: list[tuple[int, int]]
) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=layout) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.size = len(content) if info.isreg() else 0
            with contextlib.suppress(ValueError):  # too long for the oldest layout
                tar.addfile(info, io.BytesIO(content))
    content = bytearray(file.getvalue())
    for at, value in damage:
        content[at] = value

    def read(kind: type[tarfile.TarInfo]) -> list[tuple[Any, ...]] | None:
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r|*", tarinfo=kind) as tar:
                return [(m.name, m.isreg(), m.size, m.offset_data) for m in tar]
        except tarfile.TarError:
            return None

    class Slow(Member):
        frombuf = classmethod(lambda cls, *given: tarfile.TarInfo.frombuf.__func__(cls, *given))  # type: ignore[attr-defined]

    assert read(Member) == read(Slow)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    damage=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 1 << 20),
    noise=st.binary(max_size=600),
)
def test_whatever_a_foreign_shard_holds_it_is_rows_or_reasons(
    tmp_path: Path, damage: list[tuple[int, int]], cut: int, noise: bytes
) -> None:
    whole = tmp_path / "whole.tar"
    if not whole.exists():
        write_tar(whole, img2dataset(range(4)))
    content = bytearray(whole.read_bytes())
    for at, value in damage:
        content[at % len(content)] = value
    path = tmp_path / "damaged.tar"
    path.write_bytes(noise + content[: cut % (2 * len(content))] if cut % 3 else bytes(content))
    stream = shards.TarStream((str(path),))
    for row in stream.once():
        assert isinstance(row, Row | BadSampleError)
