"""The benchmarks of CLIP, autoencoders and the other ways, in their quick mode."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import autoencoders, clip, editing, presets, pretrained, pretrained_steps, ways

ROOT = Path(__file__).parents[1]
SAME = [
    (f"ours: {own}, {times}", f"diffusers: {theirs}, {times}")
    for own, theirs in (("ddim", "DDIM"), ("dpm++", "DPM-Solver++"))
    for times in ("own times", "trailing")
]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread_in_module")]


def quick(results: Path, *more: str) -> list[str]:
    return ["--quick", "--results", str(results), *more]


def test_a_clip_is_scored_by_attributes_and_by_swapped_colors(tmp_path: Path) -> None:
    (row,) = clip.main(quick(tmp_path, "--sets", "shapes"))
    assert row["attributes"].keys() == clip.VALUES.keys()
    assert all(0 <= share <= 1 for share in (*row["attributes"].values(), row["swapped"]))
    assert row["steps"] == {"clip": 2} and row["n"] == clip.QUICK_COUNT


def test_an_autoencoder_is_scored_by_what_it_leaves(tmp_path: Path) -> None:
    tune = ["--split", "tune"]
    (row,) = autoencoders.main(quick(tmp_path, "--sets", "shapes", "--kinds", "fsq", *tune))
    assert row["case"]["split"] == "tune"
    assert 3 < row["psnr"] < 40 and len(row["latent_std"]) == 4
    assert 0 < row["usage"][0] <= 1
    assert row["steps"]["autoencoder_0"] == 2


def test_ways_are_scored_alike(tmp_path: Path) -> None:
    rows = ways.main(quick(tmp_path, "--sets", "shapes", "--ways", "flow,tokens"))
    flow, tokens = rows
    assert flow["parameters"].keys() == {"unet_0", "unet_1"}
    assert tokens["parameters"].keys() == {"autoencoder_0", "gpt_0", "unet_1"}
    assert flow["calls_per_image"] == 8 + 1 and tokens["calls_per_image"] == 16 + 64 + 4
    (sheet,) = ways.beside([row["case"] for row in rows])
    with Image.open(sheet) as image:
        assert image.width > 2 * 3 * ways.SIDE  # real images and two ways, twice
    for row in rows:
        assert {"all", "shape", "color"} <= row["correct"].keys()
        assert row["real_correct"]["all"] > 0.9 and row["grain"] > 0
        assert row["through"].keys() == row["correct"].keys()


def test_changes_replace_values_inside_others() -> None:
    values = {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    assert presets.merged(values, {"a": {"b": 3}, "d": [4]}) == {"a": {"b": 3, "c": 2}, "d": [4]}
    assert values["a"]["b"] == 1


def test_what_is_promised_of_editing_is_measured(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(ROOT / "tests" / "golden" / "trained", tmp_path / "trained"))
    (directory / "samples").mkdir()
    (directory / "samples" / "captions.txt").write_text("a red star\na large blue ring\n")
    rows = editing.main([*quick(tmp_path), "-d", str(directory)])
    again, fp32, _, strength, border, between = rows
    assert again["equal"] == again["images"] == 2
    assert fp32["largest"] <= 1
    for name in ("mean_difference", "of_another_caption"):
        apart = list(strength[name].values())
        assert apart == sorted(apart) and apart[0] < apart[-1]
    assert len(border["border_over_inside"]) == 2 + 4
    assert between["seeds"]["n"] == 2 and between["seeds"]["median"] >= 1


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers' scheduler
def test_samplers_are_compared_in_fewer_steps(tmp_path: Path) -> None:
    (row,) = pretrained_steps.main(quick(tmp_path))
    assert len(row["distance"]) == len(pretrained_steps.OURS) + len(pretrained_steps.THEIRS)
    for own, theirs in SAME:
        assert row["distance"][own]["2"] == pytest.approx(row["distance"][theirs]["2"], abs=0.01)


def test_a_pretrained_model_is_sampled_by_both_sides(tmp_path: Path) -> None:
    speed, mine, theirs = pretrained.main(quick(tmp_path))
    assert speed["ratio"]["n"] == 2 and speed["ratio"]["median"] > 0
    assert mine["case"]["side_of"] == "ours" and theirs["case"]["side_of"] == "diffusers"
    assert min(mine["peak_bytes"], theirs["peak_bytes"]) > 0
