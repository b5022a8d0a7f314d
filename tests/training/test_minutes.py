"""Runs by the clock: their revisions, kept in training.json, give the same weights to the bit."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minimagen.config import ImagenConfig, TrainingConfig
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.shapes.dataset import ShapesDataset
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.storage.joining import record_revisions, write_again
from minimagen.training import clock, plan, run
from minimagen.training.clock import in_force
from minimagen.training.interruption import Interrupted
from minimagen.training.run import train
from minimagen.training.trainer import Trainer
from tests.conftest import HashTextEncoder

TESTING = Path(__file__).parents[2] / "parameters" / "testing"
Run = Callable[..., TrainingDirectory]

pytestmark = pytest.mark.usefixtures("one_thread")


class World:
    """A clock of its own, in which a step takes half a second and a validation one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.steps, self.interrupt_at = 0.0, 0, 0
        step, validate = Trainer.train_step, Trainer.validate

        def timed_step(trainer: Trainer, batch: Any) -> Any:
            self.time += 0.5
            self.steps += 1
            if self.steps == self.interrupt_at:
                signal.raise_signal(signal.SIGINT)
            return step(trainer, batch)

        def timed_validation(trainer: Trainer, batches: Any) -> float:
            self.time += 1.0
            return validate(trainer, batches)

        monkeypatch.setattr(Trainer, "train_step", timed_step)
        monkeypatch.setattr(Trainer, "validate", timed_validation)
        for module in (clock, run):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.time))


class Cores:
    """Two cores, of which another process takes one for five seconds of ten."""

    def __init__(self, world: "World") -> None:
        self.world = world

    def look(self) -> int:
        return 2 if self.world.time % 10 < 5 else 1


@pytest.fixture(params=["fixed threads", "threads that follow the cores"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(monkeypatch)
    if request.param == "fixed threads":
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    else:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(plan, "CoreWatch", lambda most: Cores(world))
    return world


@pytest.fixture
def start(tmp_path: Path) -> Run:
    """Train the testing preset, its networks still smaller, into a folder of the given name."""
    imagen, training, data = read_parameters(TESTING)
    unet = {"dim": 8, "dim_mults": (1,), "attn_heads": 1, "attn_head_dim": 4}
    stages = [stage.replace(unet=unet | {"layer_attns": False}) for stage in imagen.stages]
    config: ImagenConfig = imagen.replace(stages=stages, image_sizes=(8, 16))
    training = training.replace(steps=None, minutes=0.5, batch_size=2, precision="fp32")
    training = training.replace(chckpt_num=8, sample_num=1000, learners=())
    training = training.replace(sample_captions=("a red star",))

    def begin(name: str, config_of: TrainingConfig = training, **options: Any) -> TrainingDirectory:
        return train(
            Imagen(config, HashTextEncoder(24)),
            ShapesDataset(size=16),
            config_of,
            data=data.replace(valid_num=2),
            output=tmp_path / name,
            device="cpu",
            **options,
        )

    return begin


def training_of(directory: TrainingDirectory) -> TrainingConfig:
    return read_parameters(directory.parameters).training


def same_weights(one: TrainingDirectory, other: TrainingDirectory) -> bool:
    pairs = [
        [load_weights(each.weights(f"unet_{i}")).tensors for each in (one, other)] for i in (0, 1)
    ]
    return all(a[name].equal(b[name]) for a, b in pairs for name in a)


def test_a_run_ends_with_its_budget_and_is_repeated_from_its_revisions(
    world: World, start: Run
) -> None:
    first = start("first")
    assert world.time == pytest.approx(30.0, abs=0.5)
    config = training_of(first)
    assert config.minutes == (0.25, 0.25) and all(len(each) > 4 for each in config.revisions)
    before = world.steps
    assert before == sum(config.steps_of(i) or 0 for i in (0, 1))
    again = start("again", config)
    assert world.steps == 2 * before and same_weights(first, again)
    assert training_of(again) == config
    changed = [r.replace(spent=r.spent * 0.9) for r in config.revisions[0]]
    other = config.replace(revisions=(changed, config.revisions[1]))
    assert not same_weights(first, start("other", other))


@pytest.mark.parametrize("interrupt_at", [5, 16, 40])  # stage 0; at a checkpoint; stage 1
def test_an_interrupted_run_keeps_its_budget_and_is_repeated_uninterrupted(
    world: World, start: Run, tmp_path: Path, interrupt_at: int
) -> None:
    world.interrupt_at = interrupt_at
    with pytest.raises(Interrupted):
        start("half")
    half = TrainingDirectory(tmp_path / "half")
    whole = start("whole", training_of(half), resume=half)
    assert world.time == pytest.approx(30.0, abs=3.0)  # a validation more, maybe
    again = start("again", training_of(whole))
    assert same_weights(whole, again)


def test_a_stage_that_is_repeated_takes_nothing_of_the_next_ones_time(
    world: World, start: Run, tmp_path: Path
) -> None:
    """Stage 0 has ended by the clock and is trained by its revisions, stage 1 has not."""
    world.interrupt_at = 40
    with pytest.raises(Interrupted):
        start("half")
    config, begun = training_of(TrainingDirectory(tmp_path / "half")), world.time
    assert [bool(each and each[-1].ended) for each in config.revisions] == [True, False]
    start("anew", config)
    assert world.time - begun == pytest.approx(30.0, abs=2.0)


def test_an_interrupted_repetition_is_resumed_by_the_same_revisions(
    world: World, start: Run, tmp_path: Path
) -> None:
    first = start("first")
    world.interrupt_at = world.steps + 11
    with pytest.raises(Interrupted):
        start("half", training_of(first))
    half = TrainingDirectory(tmp_path / "half")
    assert training_of(half) == training_of(first)
    assert same_weights(first, start("whole", training_of(half), resume=half))


def test_minutes_on_resume_are_added_to_all_stages(world: World, start: Run) -> None:
    first = start("first")
    steps = [training_of(first).steps_of(i) or 0 for i in (0, 1)]
    spent = world.time
    longer = start("longer", training_of(first).extended(0.4, (0, 1)), resume=first)
    assert world.time - spent == pytest.approx(24.0, abs=1.0)
    config = training_of(longer)
    assert config.minutes == pytest.approx((0.45, 0.45))
    assert all((config.steps_of(i) or 0) > steps[i] + 12 for i in (0, 1))
    assert same_weights(longer, start("again", config))
    lines = longer.progress.read_text().splitlines()
    assert any(f"stage 1 continues after step {steps[1]}" in line for line in lines)


def test_stages_that_two_jobs_train_in_one_directory_keep_their_own_revisions(
    world: World, start: Run
) -> None:
    one = start("both", stages=[1])
    taken = world.time
    both = start("both", training_of(one).replace(minutes=1, revisions=()), stages=[0])
    assert taken == pytest.approx(30.0, abs=0.5)
    assert world.time - taken == pytest.approx(60.0, abs=0.5)
    config = training_of(both)
    assert config.minutes == (1.0, 0.5) and config.revisions[1] == training_of(one).revisions[1]
    written = json.loads((both.parameters / "training.json").read_text())
    assert written["steps"] is None and all(map(config.steps_of, (0, 1)))


@pytest.mark.parametrize("world", ["threads that follow the cores"], indirect=True)
def test_threads_follow_the_free_cores_and_are_repeated_from_the_revisions(
    world: World, start: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared is the number: in so small a network it may change no bit."""
    used: list[int] = []
    step = Trainer.train_step

    def noted(trainer: Trainer, batch: Any) -> Any:
        used.append(torch.get_num_threads())
        return step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", noted)
    first = start("first")
    config = training_of(first)
    given = [
        in_force(made, config.revisions[i]).threads
        for i in (0, 1)
        for made in range(config.steps_of(i) or 0)
    ]
    assert used == given and set(used) == {1, 2}
    assert torch.get_num_threads() == 1  # what it was before
    again = start("again", config)
    assert used == given + given and same_weights(first, again)
    some = [[r.replace(threads=None) for r in learner] for learner in config.revisions]
    start("without", config.replace(revisions=some))
    assert set(used[2 * len(given) :]) == {1}


@pytest.mark.parametrize("world", ["fixed threads"], indirect=True)
def test_a_number_of_threads_that_was_chosen_stays(world: World, start: Run) -> None:
    made = [each for learner in training_of(start("first")).revisions for each in learner]
    assert made and all(each.threads is None for each in made)


def test_the_log_says_whether_threads_follow_the_cores(
    world: World, start: Run, request: pytest.FixtureRequest
) -> None:
    torch.set_num_threads(2)
    follows = "follow" in request.node.callspec.params["world"]
    said = "threads: fewer while other processes use the cores" in start("a").progress.read_text()
    assert said == follows and torch.get_num_threads() == 2


def test_a_learner_that_is_resumed_leaves_the_minutes_of_another_job_alone(
    world: World, start: Run
) -> None:
    directory = start("run")
    parameters = read_parameters(directory.parameters)
    revisions = parameters.training.revisions
    record_revisions(directory, 1, new := revisions[1] * 2)  # by a job for stage 1
    write_again(directory, parameters, [0], beside=True)
    assert training_of(directory).revisions == (revisions[0], new)
    by_steps = parameters._replace(training=parameters.training.replace(
        minutes=None, revisions=(), steps=(3, 3)
    ))  # fmt: skip
    with pytest.raises(UserError, match="another process trains in .* by `minutes`"):
        write_again(directory, by_steps, [0], beside=True)
    assert training_of(directory).revisions == (revisions[0], new)
    write_again(directory, by_steps, [0], beside=False)
    assert training_of(directory).steps == (3, 3)
