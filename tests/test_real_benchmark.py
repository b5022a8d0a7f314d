"""The benchmark on real data: its figures on images whose figures are known."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import conditions, image_tables
from benchmarks.real_data import (
    FEW,
    MOST_VALIDATED,
    SETS,
    Images,
    RealSet,
    available,
    balanced,
    is_held_out,
)
from benchmarks.real_scores import asked, background

ROOT = Path(__file__).parents[1]


def test_a_balanced_choice_takes_every_caption_in_turn():
    real = Images(torch.zeros(7, 3, 4, 4, dtype=torch.uint8), ["a"] * 5 + ["b"] * 2)
    chosen = balanced(real, 4).captions
    assert sorted(chosen) == ["a", "a", "b", "b"]


def test_held_out_emoji_remain_in_another_style():
    rows = [{"text": f"thing {i}", "style": s} for i in range(200) for s in ("x", "y")]
    rows += [{"text": f"only {i}", "style": "x"} for i in range(200)]
    out = is_held_out(rows)
    held_out = {row["text"] for row, each in zip(rows, out, strict=True) if each}
    kept = {row["text"] for row, each in zip(rows, out, strict=True) if not each}
    assert held_out and held_out <= kept
    assert len(held_out) == sum(out)  # one style of each


def test_grain_is_measured_on_the_white_border_of_the_real_image_only():
    truth = torch.full((4, 3, 64, 64), 255, dtype=torch.uint8)
    truth[:, :, 20:40, 20:40] = 0
    made = truth.clone()
    made[:, :, 1, ::2] = 235
    made[:, :, 30, 30] = 77  # not on the border
    figures = background(SETS["emoji"], made, Images(truth, ["a"] * 4))
    assert figures["flat_std_real"] == 0.0
    assert 3.0 < figures["flat_std"] < 6.0
    assert figures["flat_level"] == 255


@pytest.mark.skipif(not available(), reason="no real data in $MINIMAGEN_BENCHMARK_DATA")
def test_the_real_sets_have_a_caption_for_each_image():
    real = SETS["emoji_few"]
    training, held_out = real.training_images(), real.held_out_images()
    assert 500 < len(training) == len(training.captions) < len(real.all_images()) == 600
    assert not set(training.captions) & set(held_out.captions)


def test_data_without_a_flat_border_has_no_figure_for_it():
    truth = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    truth[:, :, 0, 0] = 0  # one black corner, as in clothes, is no border
    assert background(SETS["fashion_mnist"], truth, Images(truth, ["Coat"] * 4)) == {}


@pytest.mark.skipif(not available(), reason="no real data in $MINIMAGEN_BENCHMARK_DATA")
def test_choices_and_final_figures_have_no_image_and_no_caption_of_emoji_in_common():
    real = SETS["emoji_few"].of_run(0, "validation")
    assert real.share == 1 - MOST_VALIDATED
    trained = set(real.training_images().captions)
    final, choices = asked(real, "test"), asked(real, "validation")
    assert set(final.captions) <= trained and len(final) == real.count
    assert set(choices.captions) <= trained - set(final.captions) and len(choices) > 200
    validation = real.held_out_images("validation").captions
    assert not set(validation) & (trained | set(real.held_out_images().captions))
    assert len(validation) + len(trained) == FEW
    others = replace(real, seed=1).held_out_images("validation").captions
    assert set(others) != set(validation)  # as --SEED 1 splits


@pytest.mark.skipif(not available(), reason="no real data in $MINIMAGEN_BENCHMARK_DATA")
def test_choices_on_classes_are_made_on_images_of_the_training_file():
    flowers = SETS["flowers"].of_run(1, "validation")
    validation, final = (asked(flowers, split).images for split in ("validation", "test"))
    images = flowers.all_images().images
    whole = {image.numpy().tobytes() for image in images}
    assert len(validation) == round(MOST_VALIDATED * len(images))
    assert all(image.numpy().tobytes() in whole for image in validation)
    assert not any(image.numpy().tobytes() in whole for image in final)


def test_the_minutes_of_a_clip_are_part_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[dict[str, Any]] = []

    def train_preset(
        case: dict[str, Any], data: object, place: Path, flags: list[str]
    ) -> dict[str, Any]:
        assert flags == []  # of the test split: the preset divides the data itself
        trained.append(case)
        return {"steps": {"clip": 9}}

    monkeypatch.setattr(conditions, "train_preset", train_preset)
    case = {"set": "mnist", "minutes": 10.0, "seed": 3}

    def encoder(condition: str) -> tuple[list[str], float, dict[str, Any]]:
        return conditions.encoder_of(SETS["mnist"], case | {"condition": condition}, tmp_path)

    assert encoder("words") == (["--T5_NAME", "t5_mini"], 10.0, {})
    assert encoder("labels") == (["--T5_NAME", "labels"], 10.0, {})
    assert not trained
    flags, minutes, facts = encoder("clip")
    (clip,) = trained
    assert clip["minutes"] + minutes == 10.0 and clip["minutes"] == 3.0 and clip["seed"] == 3
    assert flags == ["--T5_NAME", str(tmp_path / "clip" / "training")]
    assert facts == {"clip": {"steps": {"clip": 9}}}


@pytest.mark.parametrize(("condition", "minutes"), [("labels", 10.0), ("clip", 7.0)])
def test_a_condition_is_trained_for_the_minutes_that_are_left_and_scored(
    monkeypatch: pytest.MonkeyPatch, condition: str, minutes: float
) -> None:
    asked: dict[str, Any] = {}

    def train_ours(real: RealSet, case: dict[str, Any], directory: Path) -> None:
        asked.update(case)
        shutil.copytree(ROOT / "tests" / "golden" / "trained", directory)

    def score(real: RealSet, sample: Any, sheets: Path, split: str) -> dict[str, Any]:
        asked.update(sheets=sheets.name, split=split, set=real.name)
        return {"n": len(sample(["a red star", "a ring"], [0, 1]))}

    stands_in = {
        "load_judge": lambda real: None,
        "train_preset": lambda *_: {"steps": {"clip": 9}},
        "train_ours": train_ours,
        "score": score,
    }
    for name, function in stands_in.items():
        monkeypatch.setattr(conditions, name, function)
    case = {"set": "mnist", "condition": condition, "minutes": 10.0, "seed": 3}
    row = conditions.measure(case | {"split": "validation"}, 0.0)
    assert asked["minutes"] == row["stage_minutes"] == minutes
    assert asked["flags"][0] == "--T5_NAME" and asked["split"] == "validation"
    assert asked["sheets"] == f"mnist_{condition}_10.0_3_validation"
    assert row["n"] == 2 and row["sizes"] == [[16, 16], [32, 32]] and row["seconds"] > 0
    assert ("clip" in row) == (condition == "clip")


def test_conditions_are_shown_beside_the_floor() -> None:
    case = {"set": "mnist", "condition": "labels", "minutes": 10.0, "seed": 0}
    row = {
        "case": case, "images": [9], "n": 4, "recognized": 0.5, "interval": [0.2, 0.8],
        "real_recognized": 1.0, "frechet": 6.0, "frechet_floor": 4.0, "kernel": 5.0,
        "kernel_floor": 1.0,
    }  # fmt: skip
    header, shown = image_tables.conditions([row])
    found = dict(zip(header, shown, strict=True))
    assert found["times the floor"] == "1.5" and found["Frechet (floor)"] == "6.0 (4.0)"
    assert found["recognized, % (real), interval"] == "50.0 (100.0), 20.0 to 80.0"
