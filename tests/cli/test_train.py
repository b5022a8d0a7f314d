"""train.py, inference.py and main.py with their flags, in this process, with a tiny cascade."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from minimagen.cli import demo, inference, train
from minimagen.cli.settings import with_whole_paths
from minimagen.config import ImagenConfig
from minimagen.stages.diffusion import DiffusionStage
from minimagen.storage.directory import TrainingDirectory
from tests.checkpoints import load_newest
from tests.cli.conftest import TINY, same, weights
from tests.conftest import ONE_CAPTION

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # on one core
]

GOLDEN = Path(__file__).parents[1] / "golden" / "trained"


def settings(directory: str, file: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Path(directory, "parameters", file).read_text())
    return values


def test_minutes_become_revisions_that_are_written_down_and_repeated_or_extended(
    here: Path,
) -> None:
    asked = [*TINY, "-b", "8", "--MINUTES", "0.02", "-cn", "1000", "-o", "mine"]
    assert train.entry(asked) == 0
    written = settings("mine", "training.json")
    assert written["minutes"] == [0.01, 0.01] and written["steps"] is None
    for i, revisions in enumerate(written["revisions"]):
        checkpoint = load_newest(Path("mine/tmp"), f"unet_{i}_step_")
        assert checkpoint is not None and checkpoint.state["step"] == revisions[-1]["steps"]
    assert train.entry(["-p", "mine/parameters", "--DEVICE", "cpu", "-o", "again"]) == 0
    assert all(same(weights("mine", i), weights("again", i)) for i in range(2))
    assert train.entry(["-rd", "mine", "--MINUTES", "0.02", "-sg", "1", "-o", "longer"]) == 0
    longer = settings("longer", "training.json")
    assert longer["minutes"] == [0.01, 0.03] and longer["revisions"][0] == written["revisions"][0]
    last = [each["revisions"][1][-1]["steps"] for each in (written, longer)]
    assert last[0] < last[1]
    assert train.entry(["-rd", "mine", "--STEPS", str(last[1]), "-sg", "1", "-o", "steps"]) == 0
    assert settings("steps", "training.json")["revisions"] == []


def test_workers_change_nothing_and_may_change_on_resume(here: Path) -> None:
    assert train.entry([*TINY, "--STEPS", "4", "-o", "none"]) == 0
    assert train.entry([*TINY, "--STEPS", "4", "-n", "2", "-o", "two"]) == 0
    assert train.entry([*TINY, "--STEPS", "4", "-sg", "0", "-o", "half"]) == 0
    assert train.entry(["-rd", "half", "-n", "1", "-o", "whole"]) == 0
    for i in range(2):
        assert same(weights("none", i), weights("two", i))
        assert same(weights("none", i), weights("whole", i))


def test_a_stage_alone_then_the_rest(here: Path) -> None:
    """Stage 1 first, stage 0 in a resumed run: what is not trained is taken over."""
    assert train.entry([*TINY, "-sg", "1", "-o", "one"]) == 0
    names = ["unet_1.best.safetensors", "unet_1.safetensors"]
    assert sorted(p.name for p in Path("one/state_dicts").iterdir()) == names
    assert train.entry(["-rd", "one", "-sg", "0", "-o", "both"]) == 0
    assert same(weights("one", 1), weights("both", 1))
    assert load_newest(Path("both/tmp"), "unet_1_step_") is not None
    assert inference.entry(["-d", "both", "-t", "1", "-c", "a red star", "-o", "sampled"]) == 0


def test_a_resumed_run_that_stops_early_has_lost_nothing_of_the_later_stages(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train.entry([*TINY, "--STEPS", "2", "-o", "one"]) == 0
    honest = DiffusionStage.loss

    def broken(self: DiffusionStage, batch: Any, draws: Any) -> Tensor:
        loss: Tensor = honest(self, batch, draws)
        return loss * math.nan if self.index == 0 else loss

    monkeypatch.setattr(DiffusionStage, "loss", broken)
    assert train.entry(["-rd", "one", "--STEPS", "4", "-o", "two"]) == 1
    assert same(weights("one", 1), weights("two", 1))
    monkeypatch.setattr(DiffusionStage, "loss", honest)
    assert train.entry(["-rd", "two", "-o", "three"]) == 0
    log = Path("three", "training_progress.txt").read_text()
    assert "stage 0 continues after step 2" in log and "stage 1 continues after step 2" in log


def test_a_resumed_run_says_what_starts_anew(here: Path) -> None:
    assert train.entry([*TINY, "-sg", "0", "-o", "one"]) == 0
    assert train.entry(["-rd", "one", "-o", "two"]) == 0
    log = Path("two", "training_progress.txt").read_text()
    assert "stage 1 has no checkpoint and starts from its beginning" in log


def test_inference_takes_the_newest_directory_that_is_trained_whole(here: Path) -> None:
    assert train.entry([*TINY, "-o", "training_1"]) == 0
    assert train.entry([*TINY, "-sg", "0", "-o", "training_2"]) == 0
    (here / "training_3" / "parameters").mkdir(parents=True)
    for name, content in (("imagen", "{}"), ("unet_0", "{")):  # a damaged one
        (here / "training_3" / "parameters" / f"{name}.json").write_text(content)
    assert TrainingDirectory.newest().path == Path("training_1")


def test_testing_uses_a_few_images_of_ones_own_data(here: Path) -> None:
    from minimagen.shapes.dataset import ShapesDataset
    from minimagen.shapes.export import export_drawn

    export_drawn("images", ShapesDataset(size=32, epoch_size=80))
    assert train.entry([*TINY, "-ds", "images", "-b", "32", "-e", "1", "-o", "mine"]) == 0
    assert settings("mine", "training.json")["steps"] == [2, 2]  # 64 of 72 images


def test_the_seed_reaches_every_draw(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.entry([*TINY, "--SEED", "5", "--PRINT_CONFIG"]) == 0
    printed = capsys.readouterr().out
    assert "training.seed = 5  (--SEED)" in printed and "data.seed = 5  (--SEED)" in printed
    assert "imagen.stages.0.sampling.eta = 0.0  (" in printed


@pytest.mark.parametrize("output", [["--OUTPUT", "mine"], []])
def test_the_demo_samples_what_it_trained(
    here: Path, capsys: pytest.CaptureFixture[str], output: list[str]
) -> None:
    assert demo.entry([*TINY, "--STEPS", "1", *output]) == 0
    (folder,) = here.glob("generated_images_*")
    source = (folder / "imagen_training_directory.txt").read_text()
    (directory,) = (here / "mine",) if output else here.glob("training_*")
    assert Path(source).name == directory.name
    assert (folder / "grid.png").is_file() and (folder / "generated_images/image_0.png").is_file()


@pytest.mark.parametrize("flag", ["--PRINT_CONFIG", "--DRY_RUN"])
def test_the_demo_only_prints_what_it_is_asked_for(here: Path, flag: str) -> None:
    assert demo.entry([*TINY, flag]) == 0
    assert list(here.iterdir()) == []


def test_one_stage_at_a_time_samples_the_same(here: Path) -> None:
    assert train.entry([*TINY, "-o", "mine"]) == 0
    asked = ["-d", "mine", "-c", "a red star", "--SEED", "1", "-t", "2"]
    assert inference.entry([*asked, "-o", "all"]) == 0
    assert inference.entry([*asked, "--OFFLOAD", "-o", "one"]) == 0
    image = "generated_images/image_0.png"
    assert Path("all", image).read_bytes() == Path("one", image).read_bytes()


def test_a_loss_that_is_no_number_ends_the_run_with_the_weights_before(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = DiffusionStage.loss

    def broken(self: DiffusionStage, batch: Any, draws: Any) -> Tensor:
        loss: Tensor = honest(self, batch, draws)
        return loss * math.nan if draws.step == 3 else loss

    monkeypatch.setattr(DiffusionStage, "loss", broken)
    assert train.entry([*TINY, "--STEPS", "6", "-cn", "100", "-o", "mine"]) == 1
    assert "unet_0, step 3: the loss is nan" in capsys.readouterr().out
    checkpoint = load_newest(Path("mine/tmp"), "unet_0_step_")
    assert checkpoint is not None and checkpoint.state["step"] == 3
    assert all(bool(t.isfinite().all()) for t in checkpoint.tensors.values())
    monkeypatch.setattr(DiffusionStage, "loss", honest)
    assert train.entry(["-rd", "mine", "-o", "mended"]) == 0


def test_a_step_that_does_not_fit_is_one_line_and_harms_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = DiffusionStage.loss

    def greedy(self: DiffusionStage, batch: Any, draws: Any) -> Tensor:
        if draws.step == 3:
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        return honest(self, batch, draws)

    monkeypatch.setattr(DiffusionStage, "loss", greedy)
    assert train.entry([*TINY, "--STEPS", "6", "-cn", "2", "-o", "mine"]) == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith("error: stage 0, step 3: cpu has not enough memory for 2 images")
    for flag in ("--ACCUM_ITER", "--BATCH_SIZE", "--ACTIVATION_CHECKPOINTING", "--PRECISION bf16"):
        assert flag in printed
    checkpoint = load_newest(Path("mine/tmp"), "unet_0_step_")
    assert checkpoint is not None and checkpoint.state["step"] == 2
    monkeypatch.setattr(DiffusionStage, "loss", honest)
    assert train.entry(["-rd", "mine", "--ACCUM_ITER", "2", "-ac", "-o", "mended"]) == 0


def test_curves_and_sheets_reach_tensorboard(here: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    every = ["-cn", "25", "-sn", "25"]
    assert train.entry([*TINY, "--STEPS", "50", *every, "-tr", "tensorboard", "-o", "m"]) == 0
    found = EventAccumulator("m/tensorboard", size_guidance={"images": 0}).Reload()
    loss = found.Scalars("stage_1/loss")
    assert [event.step for event in loss] == [75, 100]  # after the 50 of stage 0
    assert all(math.isfinite(event.value) for event in loss)
    for name in ("lr", "images_per_second", "valid_loss"):
        assert found.Scalars(f"stage_0/{name}")[-1].value > 0
    assert {"stage_0", "stage_1"} <= set(found.Tags()["images"])
    lines = [json.loads(line) for line in Path("m/metrics.jsonl").read_text().splitlines()]
    written = [line["lr"] for line in lines if "lr" in line]
    assert written[0] == pytest.approx(found.Scalars("stage_0/lr")[0].value)


def test_a_tracker_that_is_not_installed_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert train.entry([*TINY, "--TRACKER", "wandb", "-o", "mine"]) == 2
    printed = capsys.readouterr().err
    assert "pip install wandb" in printed and printed.count("\n") == 1 and not Path("mine").exists()


def test_jobs_of_one_cascade_meet_in_one_directory(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.entry([*TINY, "-sg", "0", "--STEPS", "2", "-o", "met"]) == 0
    assert train.entry([*TINY, "-sg", "1", "--STEPS", "3", "-o", "met"]) == 0
    assert settings("met", "training.json")["steps"] == [2, 3]
    assert inference.entry(["-d", "met", "-t", "1", "-c", "a red star", "-o", "sampled"]) == 0
    assert train.entry([*TINY, "--STEPS", "3", "-o", "together"]) == 0
    assert same(weights("met", 1), weights("together", 1))
    for refused, reason in (
        (["-sg", "1"], "already has unet_1"),
        (["-sg", "1", "--SEED", "9"], "data.seed"),
        ([], "choose another name"),
    ):
        capsys.readouterr()
        assert train.entry([*TINY, *refused, "--STEPS", "3", "-o", "met"]) == 2
        printed = capsys.readouterr().err
        assert reason in printed and "OUTPUT met exists" in printed and printed.count("\n") == 1
    assert train.entry(["-rd", "met", "-ip"]) == 0


def test_jobs_that_start_at_the_same_time_share_the_stages_out(here: Path) -> None:
    root = Path(train.__file__).parents[2]
    assert train.entry([*TINY, "-st", "2", "-o", "before"]) == 0  # their captions are encoded now
    jobs = [
        subprocess.Popen(
            [sys.executable, str(root / "train.py"), *TINY, "-sg", stage, "-st", "2", "-o", "met"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for stage in ("0", "1", "1")
    ]
    printed = [job.communicate(timeout=300)[0] for job in jobs]
    codes = [job.returncode for job in jobs]
    assert codes[0] == 0 and sorted(codes[1:]) == [0, 2], printed  # one of the two has to go
    assert not list(here.glob(".met*"))
    assert inference.entry(["-d", "met", "-t", "1", "-c", "a red star", "-o", "sampled"]) == 0


def test_directories_of_the_same_second_differ(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minimagen.storage import directory

    monkeypatch.setattr(directory.time, "strftime", lambda _: "20261121_120000")
    make: Callable[[str], Path] = directory.stamped
    made = [make("training").name for _ in range(3)]
    assert made == [f"training_20261121_120000{suffix}" for suffix in ("", "_2", "_3")]
    assert all(Path(name).is_dir() for name in made)


def test_images_of_many_shapes_are_trained_and_sampled(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder to wide images; the dry run names the sizes; resumed is uninterrupted."""
    folder = here / "images"
    folder.mkdir()
    for i in range(30):
        size = ((40, 40), (64, 40), (30, 50))[i % 3]  # Pillow: (width, height)
        Image.new("RGB", size, (8 * i, 0, 99)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    flags = ["--TESTING", "--DATASET", "images", "--ASPECT_BUCKETS", "-b", "2", "-t", "1"]
    flags += ["--DEVICE", "cpu", *ONE_CAPTION]
    assert train.entry([*flags, "--DRY_RUN"]) == 0
    assert re.search(r"aspect bucket +12 x 20 +24 x 40\n", capsys.readouterr().out)
    trained: list[tuple[int, ...]] = []
    loss = DiffusionStage.loss
    monkeypatch.setattr(
        DiffusionStage,
        "loss",
        lambda stage, batch, draws: trained.append(batch.images.shape) or loss(stage, batch, draws),
    )
    assert train.entry([*flags, "--STEPS", "6", "--OUTPUT", "whole"]) == 0
    final = {(32, 32), (24, 40), (40, 24)}  # and those of the first stage
    half = {(height // 2, width // 2) for height, width in final}
    assert {shape[2:] for shape in trained} == final | half
    assert train.entry([*flags, "--STEPS", "6", "--OUTPUT", "run", "--CHCKPT_NUM", "3"]) == 0
    for newest in (here / "run" / "tmp").glob("*_step_00000006"):
        shutil.rmtree(newest)  # back to step 3 of both stages
    assert train.entry(["-rd", "run", "--STEPS", "6", "--IN_PLACE", "--DEVICE", "cpu"]) == 0
    assert all(same(weights("whole", stage), weights("run", stage)) for stage in (0, 1))
    sampled = ["-d", "run", "-c", "number 1", "-t", "1", "-ar", "16:10", "-o", "out"]
    capsys.readouterr()
    assert inference.entry([*sampled, "--DEVICE", "cpu"]) == 0
    assert "40 x 24" in (printed := capsys.readouterr().out) and "may look wrong" not in printed
    with Image.open(here / "out" / "generated_images" / "image_0.png") as image:
        assert image.size == (40, 24)


def test_a_demo_of_one_stage_ends_with_what_to_type_next(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.entry([*TINY, "--STEPS", "1", "--STAGES", "0"]) == 0
    assert "continue:" in capsys.readouterr().out
    assert not list(here.glob("generated_images*"))


def test_parts_that_are_folders_here_are_known_everywhere(here: Path) -> None:
    """Names are not looked for as folders."""
    (here / "my_clip").mkdir()
    (here / "t5_mini").mkdir()
    parameters = train.settings_of(train.parse_flags(["--T5_NAME", "my_clip"])).parameters()
    assert with_whole_paths(parameters).imagen.text_encoder_name == str(here / "my_clip")
    flags = ["--PARAMETERS", "clip", "--T5_NAME", "my_clip"]
    clip = with_whole_paths(train.settings_of(train.parse_flags(flags)).parameters()).imagen.clip
    assert clip is not None and clip.text.encoder == str(here / "my_clip")
    parameters = train.settings_of(train.parse_flags([])).parameters()
    assert with_whole_paths(parameters) == parameters


def test_a_clip_alone_reads_captions_with_the_encoder_that_is_given() -> None:
    def imagen(*flags: str) -> ImagenConfig:
        return train.settings_of(train.parse_flags(flags)).parameters().imagen

    alone = imagen("--PARAMETERS", "clip", "--T5_NAME", "minilm_mini")
    assert alone.clip is not None and alone.clip.text.encoder == "minilm_mini"
    both = imagen("--PARAMETERS", "clip_cascade", "--T5_NAME", "minilm_mini")
    assert both.clip is not None and both.clip.text.encoder == "t5_mini"
    assert both.text_encoder_name == "minilm_mini"  # what conditions the images


def test_a_clip_that_no_stage_reads_with_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "_train", lambda *_: (0, None))
    both = ["--PARAMETERS", "clip_cascade"]
    assert train.main([*both, "--T5_NAME", "minilm_mini"]) == 0
    note = "the CLIP is trained for itself; --LEARNERS unet_0,unet_1 leaves it out"
    assert note in capsys.readouterr().out
    assert train.main([*both, "--T5_NAME", "minilm_mini", "--STAGES", "0"]) == 0
    assert train.main(both) == 0
    assert capsys.readouterr().out == ""


def test_the_newest_run_is_reported_while_it_trains(here: Path) -> None:
    shutil.copytree(GOLDEN, here / "training_a")
    (here / "training_a" / "training_progress.txt").touch()
    begun = here / "training_b"
    shutil.copytree(GOLDEN / "parameters", begun / "parameters")
    (begun / "training_progress.txt").touch()
    os.utime(here / "training_a" / "training_progress.txt", (1, 1))
    assert TrainingDirectory.chosen(None).path.name == "training_a"
    assert TrainingDirectory.chosen(None, begun=True).path.name == "training_b"
