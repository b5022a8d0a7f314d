"""URL tables: fetched once, from servers that behave as badly as servers do."""

import csv
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimagen.data.download import download as downloading
from minimagen.data.download.download import download
from minimagen.data.download.fetch import FetchError, Limits, fetch_image
from minimagen.data.download.url_table import is_url_table, url_rows
from minimagen.data.images.stream import ImageStream
from minimagen.data.open import load_dataset
from minimagen.data.sources.shards import read_shard
from minimagen.errors import UserError
from tests.data.sources.test_shards import png

pytest.importorskip("urllib3")
QUICK = Limits(connect=1, silence=0.3, total=0.6, max_bytes=5000, tries=3, pause=0.01)


class Server(ThreadingHTTPServer):
    """Counts what it is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: Counter[str] = Counter()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are what is tested


class Answers(BaseHTTPRequestHandler):
    """Each path is another way to behave."""

    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        kind = self.path.strip("/").partition("/")[0]
        self.server.asked[self.path] += 1
        getattr(self, f"do_{kind}")(self.server.asked[self.path])

    def answer(
        self, body: bytes, status: int = 200, length: int | None = None, **headers: str
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_good(self, _: int) -> None:
        self.answer(png(int(self.path.rpartition("/")[2] or 0) % 256))

    def do_missing(self, _: int) -> None:
        self.answer(b"", 404)

    def do_busy(self, times: int) -> None:
        if times < 3:
            self.answer(b"", 429, Retry_After="0")
        else:
            self.answer(png(7))

    def do_failing(self, _: int) -> None:
        self.answer(b"", 500)

    def do_silent(self, _: int) -> None:
        time.sleep(1)

    def do_dripping(self, _: int) -> None:
        self.send_response(200)
        self.end_headers()
        for _i in range(40):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def do_long(self, _: int) -> None:
        self.answer(png(1), length=1000)  # promises more than comes

    def do_short(self, _: int) -> None:
        self.answer(png(1), length=30)

    def do_honest_giant(self, _: int) -> None:
        self.answer(b"", length=10**12)

    def do_giant(self, _: int) -> None:
        self.send_response(200)
        self.end_headers()
        for _i in range(100):
            self.wfile.write(bytes(10_000))

    def do_cut(self, times: int) -> None:
        if times < 3:
            self.answer(png(9)[:20], length=len(png(9)))
            self.connection.close()
        else:
            self.answer(png(9))

    def do_circle(self, _: int) -> None:
        self.answer(b"", 302, Location=self.path)

    def do_moved(self, _: int) -> None:
        self.answer(b"", 301, Location="/good/5")

    def do_away(self, _: int) -> None:
        self.answer(b"", 302, Location="file:///etc/passwd")

    def do_html(self, _: int) -> None:
        self.answer(b"<html>not found</html>", Content_Type="image/jpeg")

    def do_nothing(self, _: int) -> None:
        self.answer(b"")


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running: Server) -> Server:
    running.asked.clear()
    return running


@pytest.mark.parametrize("path, gray", [("/good/3", 3), ("/moved", 5), ("/busy", 7), ("/cut", 9)])
def test_what_can_be_had_is_had(server: Server, path: str, gray: int) -> None:
    assert fetch_image(server.url(path), QUICK) == png(gray)


@pytest.mark.parametrize(
    "path, reason, times",
    [
        ("/missing", "HTTP 404", 1),
        ("/failing", "HTTP 500", 3),
        ("/silent", "Timeout", 3),
        ("/dripping", "slower than 0.6 s", 3),
        ("/long", "IncompleteRead|ProtocolError|ChunkedEncodingError", 3),
        ("/short", "the file: ", 1),
        ("/honest_giant", "more than 5000 bytes", 1),
        ("/giant", "more than 5000 bytes", 1),
        ("/circle", "too many redirects", 6),
        ("/away", "LocationValueError", 1),
        ("/html", "not an image", 1),
        ("/nothing", "not an image", 1),
    ],
)
def test_what_cannot_be_had_is_given_up_in_time(
    server: Server, path: str, reason: str, times: int
) -> None:
    started = time.monotonic()
    with pytest.raises(FetchError, match=reason):
        fetch_image(server.url(path), QUICK)
    assert time.monotonic() - started < 5
    assert server.asked[path] == times


@pytest.mark.parametrize(
    "url", ["", "ftp://x/y.png", "file:///etc/passwd", "http://", "http://[", "http://a b", "x"]
)
def test_what_is_no_url_is_a_reason(url: str) -> None:
    with pytest.raises(FetchError):
        fetch_image(url, Limits(connect=1, tries=1))


def table(path: Path, server: Server, count: int, bad: dict[int, str] | None = None) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        for i in range(count):
            writer.writerow([server.url((bad or {}).get(i, f"/good/{i}")), f"gray {i}"])
    return path


def captions(shard: str) -> list[str]:
    return [row.captions[0] for row in read_shard(shard)]  # type: ignore[union-attr]


def test_a_table_becomes_shards_and_is_fetched_once(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "SHARD_ROWS", 10)
    file = table(tmp_path / "t.csv", server, 25, {3: "/missing", 14: "/html", 15: "/missing/2"})
    result = download(file, tmp_path / "out", limits=QUICK, threads=8)
    assert (len(result.shards), result.good) == (3, 22)
    assert result.failed["HTTP 404"] == 2
    assert captions(result.shards[0]) == [f"gray {i}" for i in range(10) if i != 3]
    stats = json.loads((tmp_path / "out" / "00001_stats.json").read_text())
    assert [url for url, _ in stats["urls"]] == [server.url("/html"), server.url("/missing/2")]
    asked = server.asked.total()
    assert download(file, tmp_path / "out", limits=QUICK) == result
    assert server.asked.total() == asked


def test_a_short_last_shard_of_dead_URLs_costs_only_itself(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "SHARD_ROWS", 10)
    file = table(tmp_path / "t.csv", server, 12, {10: "/missing", 11: "/missing/2"})
    result = download(file, tmp_path / "out", limits=QUICK)
    assert (len(result.shards), result.good, result.failed["HTTP 404"]) == (1, 10, 2)
    asked = server.asked.total()
    assert download(file, tmp_path / "out", limits=QUICK) == result
    assert server.asked.total() == asked
    dead = table(tmp_path / "dead.csv", server, 20, {i: "/missing" for i in range(10, 20)})
    with pytest.raises(UserError, match="none of 10 URLs"):  # a whole one: the server may be down
        download(dead, tmp_path / "other", limits=QUICK)


def test_a_condition_on_what_is_not_kept_of_a_table_is_refused_before_the_download(
    tmp_path: Path, server: Server
) -> None:
    asked = server.asked.total()
    with pytest.raises(UserError, match="'similarity' among those kept of a URL"):
        load_dataset(table(tmp_path / "t.csv", server, 3), (8, 8), where="similarity > 0.3")
    assert server.asked.total() == asked


def test_an_interrupted_download_goes_on(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "SHARD_ROWS", 10)
    file, whole = table(tmp_path / "t.csv", server, 30), downloading._write_tar

    def interrupted(shard: Path, *rest: object) -> None:
        if shard.name == "00001.tar":
            raise KeyboardInterrupt
        whole(shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(downloading, "_write_tar", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(file, tmp_path / "out", limits=QUICK)
    monkeypatch.setattr(downloading, "_write_tar", whole)
    assert not list((tmp_path / "out").glob("*.part"))
    result = download(file, tmp_path / "out", limits=QUICK)
    assert [c for shard in result.shards for c in captions(shard)] == [
        f"gray {i}" for i in range(30)
    ]
    assert server.asked["/good/0"] == 1 and server.asked["/good/15"] == 2
    assert server.asked["/good/25"] == 1


def test_a_folder_is_for_one_table(tmp_path: Path, server: Server) -> None:
    download(table(tmp_path / "a.csv", server, 2), tmp_path / "out", limits=QUICK)
    with pytest.raises(UserError, match="another table"):
        download(table(tmp_path / "b.csv", server, 3), tmp_path / "out", limits=QUICK)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("keep")
    with pytest.raises(UserError, match="not an empty folder"):
        download(tmp_path / "a.csv", tmp_path / "mine", limits=QUICK)
    bad = table(tmp_path / "c.csv", server, 3, {i: "/missing" for i in range(3)})
    with pytest.raises(UserError, match="none of 3 URLs.*HTTP 404"):
        download(bad, tmp_path / "bad", limits=QUICK)


def test_a_table_is_trained_on_like_shards(tmp_path: Path, server: Server) -> None:
    dataset = load_dataset(table(tmp_path / "t.csv", server, 40), (8, 8))
    assert isinstance(dataset, ImageStream)
    train, valid = dataset.split(0.5)
    assert 5 < len(valid) < 35
    asked = server.asked.total()
    sample = next(iter(train.samples(0, 0, 1)))  # type: ignore[union-attr]
    load_dataset(tmp_path / "t.csv", (8, 8))
    assert sample is not None and server.asked.total() == asked


def test_tables_of_URLs_are_told_from_others(tmp_path: Path) -> None:
    (tmp_path / "cc.tsv").write_text('a "red" star\thttp://x/1.png\nanother\thttp://x/2.png\n')
    assert is_url_table(tmp_path / "cc.tsv")
    assert [tuple(row) for row in url_rows(tmp_path / "cc.tsv", "text")] == [
        ("http://x/1.png", ('a "red" star',)),
        ("http://x/2.png", ("another",)),
    ]
    (tmp_path / "laion.jsonl").write_text('{"URL": "http://x/1.png", "TEXT": "a star"}')
    assert is_url_table(tmp_path / "laion.jsonl")
    assert list(url_rows(tmp_path / "laion.jsonl", "text"))[0].captions == ("a star",)
    (tmp_path / "files.csv").write_text("file_name,text,url\n0.png,a,http://x\n")
    assert not is_url_table(tmp_path / "files.csv")
    (tmp_path / "other.csv").write_text("url,title\nhttp://x,a\n")
    with pytest.raises(UserError, match="no column 'text'"):
        list(url_rows(tmp_path / "other.csv", "text"))


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=80)
    | st.lists(st.lists(st.text(max_size=9), max_size=3).map("\t".join), max_size=4).map(
        lambda lines: "\n".join(["a\thttp://x", *lines]).encode("utf-8", "surrogatepass")
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]),
)
def test_whatever_a_foreign_table_of_URLs_holds_it_is_rows_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    file = tmp_path_factory.getbasetemp() / f"urls{suffix}"
    file.write_bytes(content)
    try:
        rows = list(url_rows(file, "text")) if is_url_table(file) else []
    except UserError as error:
        assert "\n" not in str(error).strip()
    else:
        assert all(isinstance(row.url, str) for row in rows)


def test_a_table_has_shards_for_each_column_of_captions(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "urls.csv"
    rows = [f"{server.url(f'/good/{i}')},first {i},second {i}" for i in range(3)]
    file.write_text("\n".join(["url,text,alt", *rows]))
    for column, word in (("text", "first"), ("alt", "second"), ("text", "first")):
        found = load_dataset(file, 8, caption_column=column)
        assert {caption for (caption,) in found.captions()} == {f"{word} {i}" for i in range(3)}
