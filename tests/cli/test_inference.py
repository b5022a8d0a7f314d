"""``inference.py`` writes as it goes, can be stopped, and knows a caption from a file."""

import json
import os
import shutil
import signal
import sys
import weakref
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image

from minimagen.cli import inference, sampling
from minimagen.cli.captions import Caption
from minimagen.cli.sampling import _Batch
from minimagen.config import SamplingConfig
from minimagen.progress import tqdm
from minimagen.storage import image_files
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.files import read_lines
from minimagen.storage.metadata import Generation
from minimagen.training.interruption import StopSignals

Refused = Callable[..., str]
pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = [c for c in map(chr, range(sys.maxunicode + 1)) if len(f"a{c}b".splitlines()) > 1]
NEITHER_N_NOR_R = [c for c in SPLITS if c not in "\r\n"]


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(output / "images.jsonl")[:-1]]


def written(output: Path) -> tuple[int, int, int]:
    """How many images, captions and lines of images.jsonl there are, all of them whole."""
    if not (output / "images.jsonl").exists():
        return 0, 0, 0
    names = [row["file_name"] for row in rows(output)]
    files = sorted(path.name for path in (output / "generated_images").iterdir())
    assert files == sorted(names)
    return len(files), len(read_lines(output / "captions.txt")) - 1, len(names)


def argv(trained: Path, count: int, batch: int) -> list[str]:
    return ["-d", str(trained), "-c", "a star", "-t", "1", "-n", str(count), "-b", str(batch),
            "-o", "out", "--SEED", "3", "--DEVICE", "cpu"]  # fmt: skip


def test_captions_of_the_training_are_taken_word_by_word(trained: Path) -> None:
    """What looks like an option in them is a part of the caption, as it was in training."""
    lines = ["a cat --ar 2:3 --v 5", "a dog --seed 7"]
    TrainingDirectory(trained).sample_captions.write_text("\n".join([*lines, ""]))
    assert inference.entry(["-d", str(trained), "-t", "1", "-o", "out", "--DEVICE", "cpu"]) == 0
    assert read_lines(Path("out", "captions.txt"))[:2] == lines


def test_where_nothing_is_trained_the_bundled_cascade_answers(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundled = trained.parent / "pretrained" / "emoji"
    monkeypatch.setattr(inference, "BUNDLED", bundled)
    sampling = ["-c", "a star", "-t", "1", "--DEVICE", "cpu", "-o"]
    shutil.copytree(trained, bundled)
    assert inference.entry([*sampling, "own"]) == 0  # what is trained here comes first
    assert "training directory: training_mine (the newest one here)" in capsys.readouterr().out
    shutil.rmtree(trained)
    assert inference.entry([*sampling, "bundled"]) == 0
    printed = capsys.readouterr().out
    assert f"training directory: {bundled} (bundled: nothing is trained here)" in printed
    assert written(Path("bundled")) == (1, 1, 1)


def test_where_nothing_is_trained_nor_bundled_a_message_asks_to_train(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "BUNDLED", Path("nowhere"))
    words = ["no training directory with trained weights here", "python train.py"]
    refused(inference.entry, ["-c", "a star"], *words)


def test_images_are_on_disk_as_soon_as_their_batch_is_done(
    trained: Path, before_each_batch: Callable[[Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = []
    before_each_batch(lambda: found.append(written(Path("out"))))
    assert inference.entry(argv(trained, 5, 2)) == 0
    assert found == [(n, n, n) for n in (0, 2, 4)]
    assert written(Path("out")) == (5, 5, 5)
    printed = capsys.readouterr()
    assert "seed: 3\n5 images: " in printed.out and "of 5 images [" in printed.err
    assert [row["seed"] for row in rows(Path("out"))] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("done", [0, 1])
def test_a_stopped_run_keeps_what_is_done(
    trained: Path, before_each_batch: Callable[[Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str], signum: int, code: int, done: int,
) -> None:  # fmt: skip
    batches = iter(range(5))
    before_each_batch(lambda: next(batches) == done and os.kill(os.getpid(), signum))  # type: ignore[arg-type]
    assert inference.entry(argv(trained, 6, 2)) == code
    assert written(Path("out")) == (2 * done,) * 3
    printed = capsys.readouterr().out
    assert f"interrupted: {2 * done} of 6 images" in printed
    assert "inference --CONTINUE out" in printed
    assert Path("out/grid.png").exists() == (done > 0)


def test_memory_holds_one_batch_and_the_grid(
    trained: Path, monkeypatch: pytest.MonkeyPatch,
    before_each_batch: Callable[[Callable[[], None]], None],
) -> None:  # fmt: skip
    images: list[weakref.ref[Image]] = []
    alive: list[int] = []
    write = image_files.ImageFolder.write

    def spy(self: Any, image: Image, generation: Generation) -> Path:
        images.append(weakref.ref(image))
        return write(self, image, generation)

    monkeypatch.setattr(image_files.ImageFolder, "write", spy)
    monkeypatch.setattr(image_files, "GRID_IMAGES", 3)
    before_each_batch(lambda: alive.append(sum(image() is not None for image in images)))
    assert inference.entry(argv(trained, 12, 2)) == 0
    assert len(alive) == 6 and max(alive) <= 3 + 2


def test_the_grid_says_when_it_does_not_show_all(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image_files, "GRID_IMAGES", 2)
    assert inference.entry(argv(trained, 3, 3)) == 0
    assert "grid (the first 2 images): " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["prompts.json", "my prompts.xlsx", "A.MD", "x", "p.txt.bak"])
def test_a_file_that_is_no_text_file_is_not_a_caption(
    refused: Refused, here: Path, name: str
) -> None:
    Path(name).write_text("text\na red star\n")
    refused(inference.entry, ["-c", name], f"--CAPTIONS {name} is a file", ".txt")


@pytest.mark.parametrize("name", ["prompts.csv", "nowhere/my prompts.jsonl"])
def test_the_name_of_a_missing_table_is_not_a_caption(refused: Refused, name: str) -> None:
    refused(inference.entry, ["-c", name], f"{name} cannot be read: No such file or directory")


@pytest.mark.parametrize(
    "caption", ["a red star.", "St. Mary's", "red/blue", "v1.5", "x" * 5000, "a folder"]
)
def test_a_caption_is_not_taken_for_a_file(here: Path, caption: str) -> None:
    Path("a folder").mkdir()
    assert inference.read_captions(caption) == [Caption(caption)]


def test_only_the_three_line_ends_of_text_files_end_a_caption(here: Path) -> None:
    assert len(NEITHER_N_NOR_R) >= 8
    for c in NEITHER_N_NOR_R:
        Path("c.txt").write_bytes(f"a{c}b\r\nc\rd\ne{c}".encode())
        texts = [caption.text for caption in inference.read_captions("c.txt")]
        assert texts == ["a b", "c", "d", "e"]


@pytest.mark.parametrize("counts", [(9, 3), (2, 2)])
def test_the_bar_moves_with_every_step_and_ends_at_its_end(counts: tuple[int, int]) -> None:
    """A batch of 4 of which one image is known; a step counts as one of all its stages' steps."""
    samplings = [SamplingConfig(timesteps=n) for n in counts]
    with tqdm(total=4, initial=1, disable=True) as bar, StopSignals() as signals:
        bar.update = lambda more: setattr(bar, "n", bar.n + more)
        batch, seen = _Batch(bar, 0, signals), []
        batch.begin(samplings, 1, 3)
        for stage, count in enumerate(counts):
            for step in range(count):
                batch.step_done(stage, step, count, None)
                seen.append(bar.n)
        assert seen == pytest.approx([1 + 3 * (i + 1) / sum(counts) for i in range(sum(counts))])
        batch.step_done(0, 0, 1, None)  # a half of it, as memory is short: not back
        assert bar.n == pytest.approx(4)


def test_no_candidate_of_a_seed_is_one_of_another_seed() -> None:
    arguments = Namespace(SEEDS=[1, 2, 3, 4], BEST_OF=4)
    seeds = sampling._seeds(arguments, {}, 4)
    assert seeds is not None and len({*seeds}) == 16 and [*seeds[::4]] == [1, 2, 3, 4]
    assert max(seeds) < 2**32  # a number that the page can hold


def test_seeds_for_all_captions_leave_no_place_for_those_of_a_line(
    trained: Path, refused: Refused
) -> None:
    for line in ("a star -n 2", "a star --seed 3"):
        Path("lines.txt").write_text(line)
        argv = ["-d", trained, "-c", "lines.txt", "--SEEDS", "1,2"]
        refused(inference.entry, argv, "--SEEDS gives each caption one image for each seed")
