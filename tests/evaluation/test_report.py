"""Pages contain everything, escape what comes from files, and do not wait for a run to end."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from minimagen.__main__ import main
from minimagen.config.data import title_of, without_folders
from minimagen.evaluation.comparison import differences, read_runs
from minimagen.evaluation.figures import figure, share, write_sheets
from minimagen.evaluation.history import read_history
from minimagen.evaluation.report import write_report
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.figures import Record, write_record

TESTING = Path(__file__).parents[2] / "parameters" / "testing"
HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\"'&\x00\u202e"


class Tags(HTMLParser):
    """Collects every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def run(tmp_path: Path) -> TrainingDirectory:
    return made(tmp_path / "training_one")


def made(path: Path) -> TrainingDirectory:
    directory = TrainingDirectory(path)
    directory.make()
    shutil.copytree(TESTING, directory.parameters, dirs_exist_ok=True)
    rows = [{"stage": 0, "step": s, "loss": 1 / s, "valid_loss": 2 / s} for s in (1, 2, 3)]
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (8, 8), "red").save(directory.samples / "stage_0_step_00000002.png")
    Image.new("RGB", (8, 8), "blue").save(directory.samples / "stage_0_step_00000003.png")
    return directory


def record(verdict: str = "no more copies", name: str = "shape") -> Record:
    figures = (
        share("attributes", name, 0.5, 40, 1.0),
        figure("distance", "Frechet distance", 12.3456789, 40, (11, 13.5), 4),
    )
    return Record(
        date="2026-11-29 01:00", device="cpu", dataset=HOSTILE, split="heldout", features="mine",
        seed=0, sampling=({"timesteps": 2},), figures=figures, verdicts=(verdict,),
    )  # fmt: skip


def test_the_report_refers_to_nothing_outside_and_escapes_what_files_say(
    run: TrainingDirectory,
) -> None:
    write_record(run.path, record(HOSTILE, HOSTILE))
    write_sheets(run.path, {HOSTILE: Image.new("RGB", (4, 4))})
    with run.metrics.open("a") as file:
        file.write(json.dumps({"learner": HOSTILE, "step": 4, "loss": 0.1}) + "\n")
    tags = Tags(write_report(run).read_text("utf-8")).found
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
    for _, attributes in tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:image/png").startswith("data:image/png")
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 2  # the evaluation's, and the newest of the training
    assert "url(" not in run.path.joinpath("report.html").read_text("utf-8")


def test_the_report_has_figures_with_intervals_and_floors(run: TrainingDirectory) -> None:
    write_record(run.path, record())
    text = write_report(run).read_text("utf-8")
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    at = cells.index("Frechet distance")
    assert cells[at + 1 : at + 5] == ["12.3", "11.0 to 13.5", "4.00", "40"]
    assert "35.2 to 64.8" in cells  # Wilson's interval of 20 of 40
    assert "note warn" not in text.partition("</style>")[2]
    write_record(run.path, record("MEMORIZED: all"))
    assert 'class="note warn">MEMORIZED' in write_report(run).read_text("utf-8")


def test_a_report_is_written_while_a_line_is(run: TrainingDirectory) -> None:
    with run.metrics.open("a") as file:
        file.write('{"stage": 0, "step": 4, "lo')
    assert read_history(run).steps == {"stage 0": 3}
    assert main(["report", str(run.path)]) == 0
    run.metrics.unlink()
    assert main(["report", "-d", str(run.path)]) == 0
    assert "Not evaluated yet" in (run.path / "report.html").read_text("utf-8")


def test_a_resumed_run_has_one_value_a_step(run: TrainingDirectory) -> None:
    with run.metrics.open("a") as file:
        file.write('{"stage": 0, "step": 2, "loss": 7.0}\n{"stage": 0, "step": 5, "loss": NaN}\n')
    assert read_history(run).curves["loss"]["stage 0"] == [
        (1, 1.0),
        (2, 7.0),
        (3, pytest.approx(1 / 3)),
    ]
    assert read_history(run).bests == {"stage 0": pytest.approx(2 / 3)}


def test_compare_names_exactly_what_differs(
    tmp_path: Path, run: TrainingDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = made(tmp_path / "training_two")
    assert differences(read_runs([run, other])) == []
    path = other.parameters / "training.json"
    values = json.loads(path.read_text())
    before = values["batch_size"]
    path.write_text(json.dumps(values | {"batch_size": before + 5}))
    assert differences(read_runs([run, other])) == [
        ["training.batch_size", str(before), str(before + 5)]
    ]
    write_record(run.path, record())
    out = tmp_path / "page.html"
    assert main(["compare", "-o", str(out), str(run.path), str(other.path)]) == 0
    printed = capsys.readouterr().out
    assert "training.batch_size" in printed and "12.3 (11.0 to 13.5; n 40)" in printed
    text = out.read_text("utf-8")
    assert "training_one" in text and "training_two" in text and "polyline" in text
    assert main(["compare", str(run.path)]) == 2
    stale = record().replace(model="0" * 64, weights=("best",))
    write_record(other.path, stale)
    assert main(["compare", "-o", str(out), str(run.path), str(other.path)]) == 0
    said = "training_two: The figures are of weights that are not here any more: evaluate again."
    assert said in capsys.readouterr().out and said in out.read_text("utf-8")


def test_pages_name_no_folder_of_this_machine() -> None:
    for value, name in (
        ("diffusers:/home/me/sd", "diffusers:sd"),
        ("digits:mnist=/home/me/m.parquet,textures=/home/me/t.parquet",
         "digits:mnist=m.parquet,textures=t.parquet"),
        ("/home/me/my images", "my images"),
        ("https://host/a/{0..9}.tar", "https://host/a/{0..9}.tar"),
        ("width / height >= 1.2", "width / height >= 1.2"),
        ("google-t5/t5-small", "google-t5/t5-small"),
        ("diffusers:/home/me/my models/sd", "diffusers:sd"),
        ("(width + 1)/height/2 > 1", "(width + 1)/height/2 > 1"),
    ):  # fmt: skip
        assert without_folders(value) == name
    assert title_of("my/data/flowers") == "flowers"
    assert title_of("digits:mnist=/a/b.parquet") == "digits:mnist=b.parquet"


def test_plot_draws_a_png_or_names_what_is_missing(
    run: TrainingDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["plot", str(run.path)]) == 0
    with Image.open(run.path / "curves.png") as image:
        assert image.format == "PNG" and image.width > 1000
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert main(["plot", str(run.path)]) == 2
    assert "minimagen-cascade[plots]" in capsys.readouterr().err
