"""docs/scale.md: its numbers are computed, and its arithmetic is right."""

import dataclasses
import re
import shlex

import pytest
from accelerate.commands.launch import launch_command_parser

from minimagen.cli import train
from tools import scale_table
from tools.scale_table import Assumptions, Stage


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return scale_table.stages()


@pytest.fixture(scope="module")
def smaller() -> list[Stage]:
    return scale_table.stages(scale_table.SMALLER)


def test_the_pages_are_what_the_script_writes(stages: list[Stage], smaller: list[Stage]) -> None:
    own = scale_table.smaller_table(Assumptions(), smaller)
    for path, tables in (
        (scale_table.PAGE, scale_table.sections(Assumptions(), stages, smaller)),
        (scale_table.SMALLER_PAGE, {"dry_run": scale_table.dry_runs(), "smaller": own}),
    ):
        page = path.read_text("utf-8")
        assert page == scale_table.filled(page, tables), "run python tools/scale_table.py --write"


def test_the_preset_for_eight_gpus_has_300_m_parameters_and_fits_without_sharding(
    smaller: list[Stage],
) -> None:
    base, crops, whole = smaller
    assert 2.9e8 < base.parameters < 3.1e8
    assert whole.forward / crops.forward == pytest.approx(4, rel=0.05)
    for stage in (base, crops):
        assert stage.batch / scale_table.SMALLER_GPUS < scale_table.fitting(Assumptions(), stage, 1)


def test_the_stages_are_those_of_the_dry_run_and_the_paper(stages: list[Stage]) -> None:
    base, first, crops, last = stages
    assert [round(s.parameters / 1e6) for s in stages] == [1981, 644, 628, 628]
    assert {(s.batch, s.steps) for s in stages} == {(2048, 2_500_000)}
    assert base.states == 20 * base.parameters  # five copies of four bytes
    assert last.activations == pytest.approx(16 * crops.activations, rel=0.1)
    assert 14 < last.forward / crops.forward < 16  # pixels; the text costs the same
    assert crops.forward == pytest.approx(first.forward, rel=0.05)


STAGE = Stage("x", 1e9, 20e9, 2e9, 1e12, 1024, 1e6)
PLAIN = dataclasses.replace(
    Assumptions(), gpus=100, peak=1e15, mfu=0.3, memory=100e9, usable=0.9, price=2
)


def test_time_and_money() -> None:
    """1024 images x 3 x 1e12 FLOPs on 100 x 3e14 FLOP/s: 0.1024 s a step, 1e6 steps."""
    assert scale_table.seconds_per_step(PLAIN, STAGE) == pytest.approx(0.1024)
    table = scale_table.stage_table(PLAIN, [STAGE])
    assert "| GPU-hours | 2,844 |" in table and "| dollars | 5,689 |" in table
    assert "| days | 1.19 |" in table and "CHECKPOINTING`, days | 1.58 |" in table


def test_what_fits_a_gpu() -> None:
    """90 GB usable; 20 GB of states, whole or a hundredth; 2 GB an image; 10.24 images per GPU."""
    assert scale_table.fitting(PLAIN, STAGE, 1) == 35
    assert scale_table.fitting(PLAIN, STAGE, 100) == 44
    assert scale_table.accumulation(PLAIN, STAGE) == "1"
    large = dataclasses.replace(STAGE, activations=20e9)
    assert scale_table.fitting(PLAIN, large, 100) == 4
    assert scale_table.accumulation(PLAIN, large) == "4"
    assert "recompute" in scale_table.accumulation(
        PLAIN, dataclasses.replace(STAGE, activations=1e12)
    )


def test_what_grows_with_the_number_of_images() -> None:
    """A million captions of 20 tokens of 8192 bytes are 164 GB."""
    table = scale_table.size_table(PLAIN, [STAGE])
    assert "| embedding cache | 164 GB | 16.4 TB | 164 TB |" in table
    assert "| epochs of each stage | 1.02e+03 | 10.2 | 1.02 |" in table


def test_a_table_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 places for sizes"):
        scale_table.filled("<!-- stages -->\n<!-- end -->", {"sizes": "x"})


def test_every_flag_of_the_page_exists() -> None:
    from minimagen.cli.train import options

    known = {option.name for group in options().values() for option in group}
    text = scale_table.PAGE.read_text("utf-8")
    used = {word[2:] for word in text.replace("`", " ").split() if word.startswith("--")}
    assert {"FSDP", "T5_NAME"} <= {word for word in used if word.isupper()} <= known


def test_the_command_for_many_machines_names_rank_address_and_port() -> None:
    page = scale_table.PAGE.read_text("utf-8")
    found = re.search(r"accelerate launch ((?:.*\\\n)*.*)", page)
    assert found is not None
    words = shlex.split(found[1].replace("\\\n", " ").replace("$NODE", "3"))
    given = launch_command_parser().parse_args(words)
    assert given.num_processes == 8 * given.num_machines and given.machine_rank == 3
    assert given.main_process_ip == "$ADDRESS" and given.main_process_port == 29500
    assert given.training_script == "train.py"
    assert train.parse_flags(given.training_script_args, "train.py").STAGES == (0,)
