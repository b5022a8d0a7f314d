"""The table of ``--DRY_RUN``: every stage with its own settings, the paper beside its cascade."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from minimagen.cli import dry_run, train
from minimagen.errors import UserError
from minimagen.networks.cost import measure
from minimagen.storage.directory import read_parameters

PRESETS = Path(__file__).parents[2] / "parameters"


def test_every_stage_has_its_own_batch_and_optimizer() -> None:
    base = read_parameters(PRESETS / "testing")

    def rows(**changes: Any) -> dict[str, list[str]]:
        training = base.training.replace(batch_size=12, accum_iter=2, **changes)
        lines = dry_run.report(base._replace(training=training)).splitlines()
        cells = [re.split(r"  +", line.strip()) for line in lines if line]
        return {name: values for name, *values in cells}

    own = rows(learners=[{"batch_size": 4}, {"optimizer": "adamw"}])
    assert own["images in a micro-batch"] == ["2", "6"]
    assert own["optimizer"] == ["muon", "adamw"]
    of_all = rows(learners=[{"batch_size": 4}])
    assert of_all["images in a micro-batch"] == ["2", "2"]
    assert rows(learners=[])["images in a micro-batch"] == ["6", "6"]
    one, batch = (own[f"activations of {n}"] for n in ("one image", "a micro-batch"))
    for i, images in enumerate((2, 6)):
        assert number(batch[i]) == pytest.approx(images * number(one[i]), rel=0.01)
    with pytest.raises(UserError, match="3 entries for the 2"):
        rows(learners=[{}, {}, {}])


def number(bytes_: str) -> float:
    """5.1 MiB -> 5.1 * 2**20."""
    value, unit = bytes_.split()
    return float(value) * 1024 ** ("B", "KiB", "MiB", "GiB").index(unit)


def test_ranks_divide_the_batch_and_with_fsdp_the_states() -> None:
    base = read_parameters(PRESETS / "testing")

    def rows(*ranks: Any, **changes: Any) -> dict[str, str]:
        given = base._replace(training=base.training.replace(batch_size=16, **changes))
        lines = dry_run.report(given, dry_run.Ranks(*ranks)).splitlines()
        cells = [re.split(r"  +", line.strip()) for line in lines if line]
        return {each[0]: each[1] for each in cells if len(each) == 3}

    alone, ddp, fsdp = rows(), rows(4), rows(4, True)
    assert "ranks" not in alone and (ddp["ranks"], fsdp["ranks"]) == ("4 (DDP)", "4 (FSDP)")
    for row in ("weights", "gradients", "moments", "average (EMA)"):
        assert ddp[row] == alone[row]
        assert number(fsdp[row]) == pytest.approx(number(alone[row]) / 4, rel=0.01)
    images = [rows["images in a micro-batch"] for rows in (alone, ddp, fsdp)]
    assert images == ["16", "4", "4"]
    states = sum(number(fsdp[r]) for r in ("weights", "gradients", "moments", "average (EMA)"))
    kept = number(fsdp["activations of a micro-batch"])
    assert number(fsdp["memory to train, fp32"]) == pytest.approx(states + kept, rel=0.01)
    assert number(fsdp["memory to train, bf16"]) == pytest.approx(states + kept / 2, rel=0.01)
    less = rows(4, True, activation_checkpointing=True)["activations of one image"]
    assert number(less) < 0.9 * number(fsdp["activations of one image"])


def test_guidance_doubles_what_sampling_computes() -> None:
    folder = PRESETS / "testing"
    base = read_parameters(folder)

    def sampled(scale: float) -> list[str]:
        stages = [
            stage.replace(sampling=stage.sampling.replace(guidance_scale=scale)).model_dump()
            for stage in base.imagen.stages
        ]
        parameters = base._replace(imagen=base.imagen.replace(stages=stages))
        rows = dry_run.report(parameters).splitlines()
        return next(row for row in rows if row.startswith("FLOPs to sample")).split()[-4:]

    alone, guided = sampled(1.0), sampled(2.0)
    assert float(guided[0]) == pytest.approx(2 * float(alone[0]), rel=0.01)
    assert alone[1::2] == guided[1::2] == ["MFLOPs", "MFLOPs"]


def test_the_papers_cascade_is_measured_in_time_and_without_its_text_encoder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    measure.cache_clear()
    start = time.perf_counter()
    assert train.entry(["-p", str(PRESETS / "imagen_64_256_1024"), "--DRY_RUN"]) == 0
    assert time.perf_counter() - start < 60
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    millions = [float(n) for n in rows["parameters"][1::2]]
    assert millions == pytest.approx([1981, 644, 628], rel=0.02)
    assert "2000 M" in out and "differs from the paper" in out
    assert not list(tmp_path.iterdir())


def test_the_papers_numbers_stand_beside_its_own_sizes_only() -> None:
    assert "paper" not in dry_run.report(read_parameters(PRESETS / "testing"))
