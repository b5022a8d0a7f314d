"""Every benchmark in its quick mode, once, in this process; then what its rows say."""

import argparse
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("diffusers")

from benchmarks import (  # noqa: E402
    attention,
    data,
    data_tables,
    growth,
    measuring,
    memory,
    presets,
    processes,
    report,
    sample,
    startup,
    step,
    tables,
    text,
    time_to_quality,
)
from benchmarks.peer_diffusers import build_unet, matching_width  # noqa: E402
from benchmarks.peer_recipes import TRIALS  # noqa: E402
from minimagen import Imagen, ShapesDataset, TrainingConfig, train  # noqa: E402
from minimagen.storage.directory import TrainingDirectory  # noqa: E402

# diffusers turns a tensor into a numpy array in a way that numpy 2 warns about
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.usefixtures("one_thread_in_module"),
]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def quick(results: Path, *more: str) -> list[str]:
    return ["--quick", "--results", str(results), *more]


def test_startup_times_entry_points_that_load_no_torch(results: Path) -> None:
    rows = startup.main(quick(results, "--repeats", "1"))
    assert [row["exit_code"] for row in rows] == [0, 2]
    assert all(0 < row["seconds"]["median"] < 60 and not row["loads_torch"] for row in rows)
    assert startup.loads(["-c", "import fractions"], "fractions")
    with pytest.raises(RuntimeError, match="not 0"):
        startup.run(["train.py", "--NO_SUCH_FLAG"], 0)


def test_a_step_is_measured_on_both_sides_and_a_later_run_adds_nothing(results: Path) -> None:
    rows = step.main(quick(results))
    speed = [row for row in rows if row["case"]["what"] == "speed"]
    assert [row["case"]["side"] for row in speed] == ["ours", "diffusers"]
    for row in speed:
        assert row["images_per_second"] == pytest.approx(2 / row["step_seconds"]["median"])
        assert row["flops_per_step"] > 10 * row["parameters"]
        assert row["achieved_flops"] / row["matmul_peak_flops"] == row["share_of_peak"]
        assert row["peak_bytes"] >= row["bytes_before"] > 10**8
    for row in rows:
        if row["case"]["what"] == "v_loss":
            assert row["images"] == 4 and 0.1 < row["v_loss"] < 3
    before = (results / "step.jsonl").read_text()
    assert step.main(quick(results)) == rows
    assert (results / "step.jsonl").read_text() == before


def test_both_sides_learn_within_their_budget(results: Path) -> None:
    (trial,) = time_to_quality.main(quick(results, "--screen", "--budgets", "1"))
    assert trial["case"]["recipe"] == TRIALS[0].name and trial["case"]["split"] == "tune"
    rows = time_to_quality.main(quick(results, "--stages", "2", "--budgets", "1"))
    assert [row["case"]["side"] for row in rows] == ["ours", "diffusers"]
    for row in rows:
        assert row["seconds"] >= 0.9 and len(row["images"]) == len(row["parameters"]) == 2
        assert min(row["images"]) > 0 and 0 <= row["fully_correct"] <= row["interval"][1] <= 1
        assert row["accuracy"]["all"] == row["fully_correct"]


def test_sampling_counts_every_call(results: Path, tmp_path: Path) -> None:
    imagen = Imagen.from_parameters(ROOT / "parameters" / "testing")
    data = ShapesDataset(size=32, epoch_size=8)
    config = TrainingConfig(steps=1, batch_size=2, sample_captions=("a red star",))
    train(imagen, data, config, output=tmp_path / "trained")
    rows = sample.main(quick(results, "-d", str(tmp_path / "trained"), "--stage", "1"))
    assert {row["case"]["sampling"]["sampler"] for row in rows} == {"ddpm", "ddim", "dpm++", "heun"}
    first = imagen.config.stages[0].sampling
    assert first.sampler == "dpm++" and first.guidance_scale != 1.0
    for row in rows:
        own = row["case"]["sampling"]
        twice = own["sampler"] == "heun"  # in every step but the last
        calls = 2 * own["timesteps"] - 1 if twice else own["timesteps"]
        assert row["calls_by_stage"] == [2 * first.timesteps, calls]
        assert len(row["right"]) == 20
        assert row["right"].count("1") / 20 == row["fully_correct"] == row["accuracy"]["all"]
        assert row["kid"] > 0


def test_a_distilled_stage_is_compared_with_its_teachers_reference(
    results: Path, tmp_path: Path
) -> None:
    many, few = tmp_path / "many", tmp_path / "few"
    imagen = Imagen.from_parameters(ROOT / "parameters" / "testing")
    shapes = ShapesDataset(size=32, epoch_size=8)
    config = TrainingConfig(steps=1, batch_size=2, sample_captions=("a red star",))
    train(imagen, shapes, config, output=many)
    first = imagen.config.stages[0]
    student = imagen.config.replace(stages=(first.distilled(2), imagen.config.stages[1]))
    teacher = TrainingDirectory(many)
    train(Imagen(student), shapes, config, output=few, stages=[0], teacher=teacher)
    asked = ("--stage", "0", "--steps", "1")
    rows = sample.main(quick(results, "-d", str(many), *asked))
    (own,) = sample.main(quick(results, "-d", str(few), *asked))
    assert own["case"]["sampling"]["timesteps"] == own["calls_per_image"] == 2
    table = tables.sample([*rows, own])
    assert sum("reference" in line for line in table[2:]) == 1
    (line,) = [line for line in table if line.startswith("| distilled | 0 | ddim | 2 |")]
    assert " to " in line


def test_memory_is_that_of_the_process_and_its_children(results: Path) -> None:
    parts = ("--sources", "parquet", "--workers", "0", "2")
    rows = memory.main(quick(results, *parts))
    assert [row["case"]["workers"] for row in rows] == [0, 0, 2, 2]
    assert all(row["growth"] == row["late_bytes"] / row["early_bytes"] for row in rows)
    before = memory.anonymous_bytes()
    code = "kept = bytearray(2**26); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with_child = memory.anonymous_bytes()
        child.communicate()
    assert 2**26 < with_child - before < 2**27
    assert len(data_tables.flatness(rows)) == 5


def test_growth_measures_what_it_names(results: Path) -> None:
    rows = growth.main(quick(results))
    by = {name: [r for r in rows if r["case"]["against"] == name] for name in growth.SIZES}
    assert [row["x"] for row in by["pixels"]] == [16**2, 32**2]
    small, large = by["parameters"]
    assert large["parameters"] > 3 * small["parameters"] == 3 * small["x"]
    assert [len(row["spread"]) for row in by["stages"]] == [1, 2]
    assert all(row["step_seconds"] > 0 for row in rows)


def test_text_costs_less_the_second_time(results: Path) -> None:
    encode, without, cold, warm, start, *memory = text.main(quick(results))
    assert encode["distinct"] == 200 and 2000 < encode["bytes_per_caption"] < 4000
    assert encode["found_per_second"] > 3 * encode["captions_per_second"]
    assert warm["text_seconds"] < without["text_seconds"] and 0 < cold["share"] < 1
    assert start["first_seconds"] > 0 and start["again_seconds"] > 0
    assert [row["disk_bytes"] > row["case"]["captions"] * 12 * 256 for row in memory] == [True] * 2


def test_attention_is_timed_in_three_ways(results: Path) -> None:
    rows = attention.main(quick(results))
    assert len(rows) == len(attention.SHAPES)
    assert all(min(row["milliseconds"].values()) > 0 for row in rows)


def test_processes_are_launched_and_share_the_batch(results: Path) -> None:
    rows = processes.main(quick(results))
    assert [row["case"]["processes"] for row in rows] == [1, 2]
    assert all(row["images_per_second"] > 0 and row["images"] == 16 for row in rows)


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """These benchmarks set the variable themselves, in processes that are their own otherwise."""
    monkeypatch.setenv("MINIMAGEN_CACHE", os.environ["MINIMAGEN_CACHE"])


@pytest.mark.usefixtures("own_cache")
def test_data_is_measured_from_every_source(results: Path) -> None:
    rows = data.main(quick(results))
    by = {what: [r for r in rows if r["case"]["what"] == what] for what in data.MEASURES}
    assert [row["case"]["source"] for row in by["speed"]] == list(data.SOURCES)
    assert all(row["first_per_second"] > 0 and row["later_per_second"] > 0 for row in by["speed"])
    assert all(0 < row["text_share"] < row["share"] < 1 for row in by["waiting"])
    assert [row["length"] for row in by["memory"]] == [row["case"]["rows"] for row in by["memory"]]


def test_lost_checkpoints_and_other_bits_are_counted(results: Path) -> None:
    good = {"lost": False, "readable": True, "same_bits": True, "in_write": ["tmp/a.part"]}
    bad = {"lost": True, "readable": False, "same_bits": False, "said": False, "code_ran": True}
    for number, row in enumerate((good, good, bad)):
        measuring.append("faults", {"fault": "kill", "number": number}, row, results)
    (_, counted) = data_tables.faults(measuring.read_rows("faults", results))
    assert counted == ("kill", 3, 1, 1, 1, 1, 1, "2 inside the write of a checkpoint")


def test_foreign_files_of_each_kind_are_counted(results: Path) -> None:
    found = {"read": 3, "refused": 6, "escapes": {"TypeError": 1}, "code_ran": False}
    measuring.append("foreign", {"kind": "captions", "inputs": 10}, found, results)
    (_, counted, total) = data_tables.foreign(measuring.read_rows("foreign", results))
    assert counted == ("captions", 10, 3, 6, 1, "no") and total == ("all", 10, 3, 6, 1, "")


REAL_CASE = {"set": "mnist", "side": "ours", "minutes": 5, "seed": 0, "flags": []}
REAL_ROW = {
    "images": [320], "recognized": 0.99, "real_recognized": 0.997,
    "frechet": 3.77, "frechet_floor": 1.9, "kernel": 2.0, "kernel_floor": -1.0,
    "flat_std": 0.7, "flat_level": 0.0, "flat_level_real": 0.0, "diversity": 0.9,
    "copies": 0.0, "copies_held_out": 0.0,
}  # fmt: skip


IMAGE_ROWS: dict[str, list[tuple[dict, dict]]] = {
    "bundled": [({"what": "emoji"}, {"held_out": {
        "n": 101, "generated": {"fully_correct": 0.347}, "real": {"fully_correct": 1.0},
        "shuffled": {"fully_correct": 0.0}, "background": {"std": 7.4}, "copies": 0.0}})],
    "conditions": [({"set": "mnist", "condition": "labels", "minutes": 10, "seed": 0}, REAL_ROW | {
        "n": 1000, "interval": [0.98, 0.995]})],
    "beside": [({"seconds": 120}, {
        name: {"train": value, "sample": value / 2}
        for name, value in (("alone", 4.0), ("beside", 2.0), ("kept", 0.5))})],
    "ways": [({"way": "tokens", "set": "digits", "files": "mnist=x", "minutes": 10, "seed": 0,
               "changes": {}}, {
        "through": {"all": 0.6}, "parameters": {"autoencoder_0": 9e5, "gpt_0": 5.3e6},
        "correct": {"all": 0.08},
        "real_correct": {"all": 0.702}, "kernel": 56.0, "grain": 0.9, "grain_real": 2.5,
        "by_texture": {"no": {"correct": {"all": 0.145}, "real_correct": {"all": 0.946}}},
        "seconds_per_image": 0.03, "calls_per_image": 65, "training_bytes": 1.7e9})],
    "clip": [
        ({"set": "mnist", "minutes": 3}, {
            "n": 10000, "captions": 10, "accuracy": 0.992, "interval": [0.99, 0.993],
            "recall": {"1": 0.993, "5": 1.0}, "image_recall": {"1": 1.0, "5": 1.0}}),
        ({"set": "shapes", "minutes": 3}, {
            "n": 1000, "attributes": {"shape": 0.996, "color": 1.0}, "swapped": 1.0}),
    ],
    "autoencoders": [({"set": "shapes", "kind": "fsq", "minutes": 5}, {
        "n": 500, "parameters": 920000, "psnr": 34.9, "color_shift": 0.3, "latent_std": None,
        "usage": [0.99, 800.0]})],
    "editing": [
        ({"what": "again", "directory": "emoji"}, {"images": 100, "equal": 100}),
        ({"what": "border", "directory": "emoji"}, {"border_over_inside": {"pasted": 2.69}}),
        ({"what": "interpolation", "directory": "emoji"}, {
            "seeds": {"median": 1.16, "largest": 1.3, "n": 11}}),
        ({"what": "upscale", "directory": "scenes"}, {
            "images": 200, "psnr": {"bicubic": 24.1}, "ssim": {"bicubic": 0.9}}),
    ],
    "page": [({"directory": "tiny"}, {
        name: {"median": 1.5, "quartiles": [1.4, 1.6], "n": 5}
        for name in ("served", "first_text", "usable", "preview", "again")})],
    "pretrained": [
        ({"what": "speed", "side": 16, "channels": [16, 32], "steps": 20}, {
            "ours_seconds": {"median": 0.213}, "diffusers_seconds": {"median": 0.244},
            "ratio": {"median": 0.89, "quartiles": [0.87, 0.91]}}),
        *(({"what": "memory", "side": 16, "side_of": side}, {"peak_bytes": peak})
          for side, peak in (("ours", 4.33e8), ("diffusers", 4.34e8))),
    ],
    "pretrained_steps": [({"minutes": 8}, {
        "distance": {"ours: dpm++, own times": {"5": 9.0, "10": 2.0}}})],
}  # fmt: skip


def test_the_report_has_a_table_of_each(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    measuring.append("real", REAL_CASE, REAL_ROW, results)  # its data may be missing here
    for name, rows in IMAGE_ROWS.items():
        for case, row in rows:
            measuring.append(name, case, row, results)
    report.main(["--results", str(results), "--output", str(page)])
    text = page.read_text()
    assert "Not run yet" not in text
    for wanted in (
        "`train.py, unknown flag`",
        "| 0 | 8 | cpu | 2 |",
        "| pixels |",
        "| ddpm | 4 |",
        "| warm",
        "| 320 | 99.0 (99.7) |  | 3.8 (1.9) | 2 (-1) | 0.70 | 0 (0) | 0.90 |",
        "| emoji | held out | 101 | 34.7 (100.0) | 0.0 | 7.4 | 0.0 |",
        "| digits, real | 10 | tokens | 0 | 0.9 + 5.3 | 8.0 (70.2) | 14.5 (94.6) | 60.0 | 56 |",
        "| labels | 0 | 320 | 1000 | 99.0 (99.7), 98.0 to 99.5 | 3.8 (1.9) | 2.0 |",
        "| training, steps | 4.00 | 2.00 | 0.50 |",
        "| 3 | 10000 | 10 | 99.2 (99.0 to 99.3) | 99.3, 100.0 | 100.0, 100.0 |",
        "| 3 | 1000 | shape 99.6, color 100.0 | 100.0 |",
        "| shapes | fsq | 5 | 500 | 0.92 | 34.9 | 0.3 |  | 99.0 |",
        "| emoji | 100 | 100 |",
        "| pasted | 2.69 |",
        "| seeds | 11 | 1.16 | 1.30 |",
        "| bicubic | 200 | 24.1 | 0.900 |",
        "| tiny | preview | 1.50 (1.40 to 1.60) | 5 |",
        "| 16 | 16-32 | 20 | 0.213 | 0.244 | 0.89 (0.87 to 0.91) | 433, 434 |",
        "| sampler and times | 5 steps, /255 | 10 steps, /255 |",
        "| ours: dpm++, own times | 9.0 | 2.0 |",
    ):
        assert wanted in text, wanted
    step_of_ours = r"^\| 1 \| ours \| fp32 \| eager \| 1 \|.*\| \d+\.\d\d x \| \d+\.\d\d x \|$"
    assert re.search(step_of_ours, text, re.MULTILINE)
    assert f"{len(TRIALS)} trials, 1 of them run" in text


def row_of(seed: int, budget: int, right: float, side: str = "ours", settings: str = "a") -> dict:
    case = dict(side=side, seed=seed, budget=budget, stages=1, split="tune", purpose="confirm")
    case["settings"] = settings
    facts = {"machine": {"name": "m", "versions": {}}, "date": "2026-01-01"}
    return {"case": case, "seconds": budget - 1, "fully_correct": right} | facts


def speed_row(side: str, run: int, mode: str = "eager", **facts: object) -> dict:
    case = dict(what="speed", stage=0, side=side, precision="fp32", mode=mode, run=run)
    return {"case": case} | facts


def test_a_step_is_compared_with_the_peers_run_beside_it() -> None:
    numbers = ("parameters", "bytes_before", "achieved_flops", "share_of_peak")
    same = dict.fromkeys((*numbers, "first_step_seconds"), 1.0)
    speeds = [("ours", 0, 4.0, 7), ("diffusers", 0, 2.0, 10), ("ours", 1, 9.0, 6)]
    speeds += [("diffusers", 1, 3.0, 10), ("ours", 2, 50.0, 6)]  # the last one has no peer beside
    rows = [
        speed_row(side, run, images_per_second=speed, peak_bytes=used, **same)
        for side, run, speed, used in speeds
    ]
    rows += [
        speed_row("ours", 3, skipped="why not"),
        speed_row("ours", 0, "compiled", skipped="no"),
    ]
    lines = tables.step(rows)
    ours, peer, compiled = lines[2:5]
    assert ours.endswith("| 2.50 (2.00-3.00) x | 0.65 (0.60-0.70) x |") and "| 3 |" in ours
    assert "| 9.00 (4.00-50.00) |" in ours
    assert "| 2.50 (2.00-3.00) |" in peer and peer.endswith("|  |  |")
    assert "| 0 |  | no |" in compiled


def test_time_to_quality_is_the_smallest_budget_that_reaches_it() -> None:
    rows = [row_of(0, 60, 0.6), row_of(0, 90, 0.85), row_of(0, 120, 0.9), row_of(1, 60, 0.4)]
    assert tables.times_to(rows, 0.8) == {0: 90, 1: None}
    late = row_of(2, 60, 0.9) | {"seconds": 75.0}  # overran its budget: what it took counts
    assert tables.times_to([late], 0.8) == {2: 75.0}


def test_the_report_forgets_older_settings_and_older_rows() -> None:
    old, new = row_of(0, 60, 0.9, settings="old"), row_of(0, 60, 0.5, settings="new")
    peer = row_of(0, 60, 0.1, side="diffusers")
    assert report.current([old, peer, new]) == [peer, new]
    assert report.newest([old, new, old | {"fully_correct": 0.7}])[0]["fully_correct"] == 0.7


def test_a_changed_preset_is_measured_anew_and_replaces_its_row(tmp_path: Path) -> None:
    before = presets.hash_preset(partial(presets.copy_preset, "clip"))
    assert presets.hash_preset(partial(presets.copy_preset, "clip")) == before

    def changed(folder: Path) -> None:
        presets.copy_preset("clip", folder)
        presets.change_preset(folder, {"training": {"batch_size": 3}})

    now = presets.hash_preset(changed)
    old = measuring.append("x", {"set": "mnist"} | before, {"seconds": 1.0}, tmp_path)
    assert measuring.find([old], {"set": "mnist"} | now) is None
    new = measuring.append("x", {"set": "mnist"} | now, {"seconds": 2.0}, tmp_path)
    other = measuring.append("x", {"set": "emoji"} | before, {"seconds": 3.0}, tmp_path)
    assert report.newest([old, new, other]) == [new, other]


def test_differences_are_paired_by_caption() -> None:
    same = {"right": "1100" * 100}
    assert tables.difference(same, same) == "+0.0 (+0.0 to +0.0)"
    assert tables.difference({"right": "0100" * 100}, same).startswith("-25.0 (-29.")


def test_the_peer_has_as_many_parameters() -> None:
    import torch

    for low_res in (False, True):
        width = matching_width(16, low_res, 128, 4_000_000, TRIALS[0])
        with torch.device("meta"):
            unet = build_unet(16, low_res, 128, width, TRIALS[0])
        assert sum(p.numel() for p in unet.parameters()) == pytest.approx(4e6, rel=0.1)


def test_the_fitted_exponent_is_the_true_one() -> None:
    assert measuring.growth_exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_a_row_is_found_again_on_its_own_machine_only(tmp_path: Path) -> None:
    row = measuring.append("x", {"size": (1, 2)}, {"seconds": 1.5}, tmp_path)
    assert measuring.find(measuring.read_rows("x", tmp_path), {"size": [1, 2]}) == row
    assert {"python", "torch", "diffusers"} <= row["machine"]["versions"].keys() and row["date"]
    elsewhere = json.loads(json.dumps(row)) | {"machine": {"name": "another", "versions": {}}}
    assert measuring.find([elsewhere], {"size": [1, 2]}) is None


def test_a_case_has_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "side.py").write_text(
        "import json, os, sys\n"
        "case = json.loads(sys.argv[sys.argv.index('--case') + 1])\n"
        "print('a line of the log')\n"
        "print(json.dumps({'pid': os.getpid(), 'twice': 2 * case['n']}))\n"
        "sys.exit(case['n'] == 0)\n"
    )
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    row = measuring.in_own_process("side", {"n": 4})
    assert row["twice"] == 8 and row["pid"] != os.getpid()
    with pytest.raises(RuntimeError, match="side failed"):
        measuring.in_own_process("side", {"n": 0})


def test_the_peer_is_confirmed_with_the_best_of_its_trials() -> None:
    trials = [row_of(0, 90, right, "diffusers") for right in (0.2, 0.6, 0.4)]
    for row, recipe in zip(trials, TRIALS, strict=False):
        row["case"] |= {"purpose": "trial", "recipe": recipe.name}
    assert time_to_quality.tuned_recipe(trials, stages=1) == TRIALS[1]
    assert time_to_quality.tuned_recipe(trials, stages=2) == TRIALS[1]
    assert time_to_quality.tuned_recipe([], stages=1) == TRIALS[0]


def test_diffusers_as_shipped_has_ten_times_our_time(tmp_path: Path) -> None:
    for seed, budget in ((0, 100), (1, 140)):
        row = row_of(seed, budget, 0.85)
        measuring.append("time_to_quality", row.pop("case"), row, tmp_path)
    asked = argparse.Namespace(
        quick=False, results=tmp_path, stages=1, split="tune", count=500, budgets=[60]
    )
    asked.parameters = Path("parameters/testing")
    (case,) = time_to_quality.as_shipped(asked)
    assert case["budget"] == 1200 and case["settings"]["sampling_steps"] == 1000
    asked.split = "heldout"
    with pytest.raises(SystemExit, match="run those first"):
        next(time_to_quality.as_shipped(asked))
