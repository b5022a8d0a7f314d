"""Real processes over gloo: any number of them trains the same weights, and all end together."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from minimagen.autoencoders.build import KINDS
from minimagen.cli.train import entry
from minimagen.config import (
    AutoencoderConfig,
    ClipConfig,
    DiffusionConfig,
    LearnerTrainingConfig,
    TokenConfig,
)
from minimagen.data.loading.batches import training_batches
from minimagen.data.open import load_dataset
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.images import Batch, to_model_space
from minimagen.learner import Learner, Unread
from minimagen.shapes.dataset import ShapesDataset, embedded
from minimagen.shapes.drawing import COLORS
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.tokens import TokenStage
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.text.clip import Clip
from minimagen.text.labels import LabelEncoder
from minimagen.training.finetuning import Source
from minimagen.training.plan import check_settings
from minimagen.training.processes import many
from minimagen.training.processes.alone import Processes
from minimagen.training.processes.launch import launched
from minimagen.training.run import train
from minimagen.training.trainer import NonFiniteLossError, Trainer
from tests.checkpoints import load_newest
from tests.conftest import ONE_CAPTION, HashTextEncoder
from tests.training.test_trainer import DoubleLearner

ROOT = Path(__file__).parents[2]
GLOBAL, STEPS = 8, 5
HERE = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TINY = ["-p", str(ROOT / "parameters" / "testing"), "--VALID_NUM", "4", "--DEVICE", "cpu"]
TINY += ONE_CAPTION


@pytest.fixture(autouse=True)
def cache(cache_of_module: Path) -> Path:
    return cache_of_module


def free_port() -> str:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def in_processes(world: int, work, *arguments) -> None:
    """Run ``work(rank, *arguments)`` in ``world`` processes that know of each other.

    A server that has imported torch forks them: importing takes each of them seconds.
    """
    mp.set_forkserver_preload(["torch._dynamo", many.__name__, "minimagen.training.run"])
    given = (world, free_port(), dict(os.environ), work, arguments)
    mp.start_processes(_enter, given, nprocs=world, start_method="forkserver", join=True)


def _enter(rank, world, port, environment, work, arguments):
    os.environ |= environment  # the server has that of the first test
    os.environ |= HERE | {"MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    work(rank, *arguments)
    dist.barrier()  # a forked process ends without waiting for what it still has to send


def train_some(
    processes: Processes, accum_iter: int = 1, folder: str = ""
) -> tuple[Trainer, list[float]]:
    """Train on drawn images, or in two sizes on those of a folder."""
    data = ShapesDataset(size=8)
    if folder:
        data = load_dataset(folder, (8, 8), crop="random", flip=True, buckets=((8, 8), (4, 12)))
    trainer = Trainer(
        DoubleLearner(),
        0,
        LearnerTrainingConfig(optim_lr=1e-2, max_grad_norm=0.5, warmup_steps=0),
        STEPS + 5,
        seed=1,
        accum_iter=accum_iter,
        processes=processes,
    )
    batches = training_batches(
        data,
        HashTextEncoder(),
        GLOBAL,
        1,
        0,
        STEPS,
        rank=processes.rank,
        world=processes.world,
    )
    losses = [
        float(processes.mean(trainer.train_step(batch))) for batch in processes.in_step(batches)
    ]
    return trainer, losses


def numbers(trainer: Trainer, losses: list[float]) -> dict[str, torch.Tensor]:
    valid = list(training_batches(ShapesDataset("tune", size=8), HashTextEncoder(), 4, 0, 0, 3))
    found = {name: t.detach().clone().double() for name, t in trainer.tensors().items()}
    return found | {"losses": torch.tensor([*losses, trainer.validate(valid)]).double()}


def _train_and_save(rank: int, accum_iter: int, path: str, folder: str = "") -> None:
    processes = launched("cpu")
    found = numbers(*train_some(processes, accum_iter, folder))
    mine = found["model.unet.conv_in.weight"].sum()
    torch.testing.assert_close(processes.mean(mine), mine, rtol=1e-14, atol=0)
    if rank == 0:
        torch.save(found, path)


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = numbers(*train_some(Processes()))
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize(("world", "accum_iter"), [(2, 2), (4, 1)])
def test_any_number_of_processes_trains_the_same_weights(tmp_path, alone, world, accum_iter):
    """8, 2 x 4 in two pieces each, 4 x 2: every draw belongs to a row of the global batch."""
    in_processes(world, _train_and_save, accum_iter, str(tmp_path / "found"))
    found = torch.load(tmp_path / "found", weights_only=True)
    assert found.keys() == alone.keys()
    for name, expected in alone.items():
        distance = (found[name] - expected).norm() / expected.norm().clamp(min=1e-12)
        assert distance < 1e-6, name
    moved = found["model.unet.conv_in.weight"] - DoubleLearner().unet.conv_in.weight.detach()
    assert moved.norm() > 1e-3  # it did train


NEW_LEARNERS = ("clip", "kl", "fsq", "gumbel", "tokens", "flow", "labels")
NOISY = ("flow", "labels")  # the noise level of a batch decides its loss more than some steps do


def new_learner(kind: str) -> Learner:
    """Return a small learner of this kind in float64."""
    torch.manual_seed(0)
    small = {"image_size": 8, "block_out_channels": (4, 8), "norm_num_groups": 2}
    if kind == "clip":
        text = {"kind": "characters", "dim": 8, "depth": 1, "heads": 2}
        return Clip(
            ClipConfig(image_size=8, embed_dim=6, image={"dims": (4, 8)}, text=text), None
        ).double()
    if kind in ("flow", "labels"):
        unet = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 1, "attn_head_dim": 8}
        straight = {
            "schedule": {"kind": "flow"},
            "prediction": "u",
            "loss": {"space": "u", "error": "l1", "weight": "simple", "times": "logit_normal"},
        }
        stage = {"unet": unet, **(straight if kind == "flow" else {})}
        width = len(COLORS) if kind == "labels" else 1
        return DiffusionStage(0, DiffusionConfig(**stage), (8, 8), None, width).double()
    coder = kind if kind in KINDS else "fsq"
    own = KINDS[coder](0, AutoencoderConfig(kind=coder, **small)).double()
    if kind in KINDS:
        return own
    config = TokenConfig(gpt={"dim": 8, "depth": 1, "heads": 2, "embedding": "both"})
    return TokenStage(0, config, (8, 8), 1, own.float()).double()


def train_new(kind: str, processes: Processes) -> dict[str, torch.Tensor]:
    """Train it on batches in which some captions are equal."""
    learner = new_learner(kind)
    settings = LearnerTrainingConfig(optimizer="adamw", optim_lr=1e-2, warmup_steps=0)
    trainer = Trainer(learner, kind, settings, STEPS, precision="fp32", processes=processes)
    data = embedded("shapes", size=8, caption_column="color")
    rank, world = processes.rank, processes.world
    reader = LabelEncoder(tuple(COLORS)) if kind == "labels" else Unread()
    batches = training_batches(data, reader, GLOBAL, 1, 0, STEPS, rank=rank, world=world)
    losses = []
    for batch in batches:
        exact = to_model_space(batch.images).double()
        batch = replace(batch, images=exact, text_embeds=batch.text_embeds.double())
        losses.append(float(processes.mean(trainer.train_step(batch))))
    found = {name: p.detach().clone() for name, p in learner.named_parameters()}
    return found | {"losses": torch.tensor(losses, dtype=torch.float64)}


def _train_new_and_save(rank: int, path: str) -> None:
    processes = launched("cpu")
    found = {kind: train_new(kind, processes) for kind in NEW_LEARNERS}
    if rank == 0:
        torch.save(found, path)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """What two processes train; all learners one after the other, for starting takes longest."""
    path = tmp_path_factory.mktemp("by_two") / "found"
    in_processes(2, _train_new_and_save, str(path))
    return torch.load(path, weights_only=True)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", NEW_LEARNERS)
def test_two_processes_train_the_same_weights_of_every_learner(by_two, kind):
    """A CLIP too: each process compares its rows with those of both."""
    alone, found = train_new(kind, Processes()), by_two[kind]
    assert found.keys() == alone.keys()
    for name, expected in alone.items():
        assert expected.dtype == torch.float64
        # queries that find a single token of text have no gradient but rounding, and hardly move
        distance = (found[name] - expected).norm() / expected.norm().clamp(min=1e-6)
        assert distance < 1e-6, name
    first = new_learner(kind)
    moved = [(alone[name] - p).norm() for name, p in first.named_parameters()]
    assert max(moved) > 1e-3 and (kind in NOISY or alone["losses"][0] > alone["losses"][-1])


@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_the_same_weights_on_images_of_several_sizes(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(24):
        size = ((40, 40), (50, 20))[i % 2]  # Pillow: (width, height)
        ramp = torch.arange(size[0], dtype=torch.uint8).mul(5).add(10 * i).expand(size[1], -1)
        Image.fromarray(ramp.numpy()).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    alone = numbers(*train_some(Processes(), folder=str(folder)))
    in_processes(2, _train_and_save, 1, str(tmp_path / "found"), str(folder))
    found = torch.load(tmp_path / "found", weights_only=True)
    for name, expected in alone.items():
        distance = (found[name] - expected).norm() / expected.norm().clamp(min=1e-12)
        assert distance < 1e-6, name


def test_the_rows_of_all_ranks_make_up_the_global_batch():
    def load(rank: int = 0, world: int = 1) -> list[Batch]:
        data = ShapesDataset(size=8)
        return list(training_batches(data, HashTextEncoder(), 8, 3, 2, 4, rank=rank, world=world))

    parts = [load(rank, 4) for rank in range(4)]
    for step, whole in enumerate(load()):
        images = torch.cat([part[step].images for part in parts])
        assert images.equal(whole.images)


def _one_is_wrong(rank: int, folder: str) -> None:
    processes = launched("cpu")

    def batches():
        yield torch.zeros(1)
        if rank == 1:
            raise UserError("the data is bad")
        yield torch.zeros(1)

    try:
        for _ in processes.in_step(batches()):
            processes.mean(torch.ones(1))
    except UserError as error:
        Path(folder, f"data_{rank}").write_text(str(error))
    assert processes.on_rank_0(int, rank + 5) == 5
    assert processes.largest(rank, -rank) == [1, 0]
    try:
        processes.on_rank_0(lambda: int("no") if rank else _refuse())
    except UserError as error:
        Path(folder, f"disk_{rank}").write_text(str(error))
    trainer = Trainer(DoubleLearner(), 0, LearnerTrainingConfig(), 10, processes=processes)
    batch = next(training_batches(ShapesDataset(size=8), HashTextEncoder(), 2, 0, 0, 1))
    if rank == 1:  # one process's loss is no number: all stop, nothing has changed
        trainer.learner.loss = lambda b, d: DoubleLearner.loss(trainer.learner, b, d) * float("nan")
    with pytest.raises(NonFiniteLossError, match="norm of its gradient nan"):
        trainer.train_step(batch)


def _refuse() -> None:
    raise UserError("the disk is full")


def test_what_goes_wrong_in_one_process_ends_all_alike(tmp_path):
    in_processes(2, _one_is_wrong, str(tmp_path))
    for rank in range(2):
        assert (tmp_path / f"data_{rank}").read_text() == "the data is bad"
        assert (tmp_path / f"disk_{rank}").read_text() == "the disk is full"


def test_settings_that_do_not_fit_are_data_in_one_line(monkeypatch):
    from minimagen.config import TrainingConfig

    config = TrainingConfig(batch_size=6, steps=1, learners=({},))
    stages = [DoubleLearner()]
    with pytest.raises(UserError, match="batch_size` 6 .* multiple of 4"):
        check_settings(config, stages, [0], 4)
    check_settings(config, stages, [0], 3)
    with pytest.raises(UserError, match="`optimizer` adamw"):
        check_settings(config, stages, [0], 2, True)
    stages[0].per_example = False
    check_settings(config, stages, [0])
    check_settings(config, stages, [0], 3)
    with pytest.raises(UserError, match="double compares .* `accum_iter` 2 would cut"):
        check_settings(config.replace(accum_iter=2), stages, [0])
    with pytest.raises(UserError, match="torchrun"):
        launched("cpu", sharded=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="mps"):
        launched("mps")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="give `fsdp`"):
        launched("cpu")


def torchrun(world: int, *arguments: str, script: str = str(ROOT / "train.py")) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(world)]
    return [*launcher, "--master_port", free_port(), script, *arguments]


def start(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, command: list[str], code: int = 0) -> str:
    process = start(folder, command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def distance(one: Path, other: Path, stage: int = 0) -> float:
    """Return how far the weights of a stage are from each other, relative to their size."""
    file = f"unet_{stage}.safetensors"
    a, b = (load_weights(d / "state_dicts" / file).tensors for d in (one, other))
    assert a.keys() == b.keys()
    x, y = (torch.cat([t[name].flatten() for name in a]) for t in (a, b))
    return float((x - y).norm() / x.norm())


BASE = [*TINY, "--STAGES", "0", "--STEPS", "6", "--CHCKPT_NUM", "3", "--PRECISION", "fp32"]


def stopped_after_three(directory: Path, copy: Path) -> Path:
    """Return a copy of a run of 6 steps, as if it had been killed after 3."""
    shutil.copytree(directory, copy)
    shutil.rmtree(copy / "tmp" / "unet_0_step_00000006")
    (copy / "state_dicts" / "unet_0.safetensors").unlink()
    return copy


def _train_by_command(rank: int, folder: str, argv: list[str]) -> None:
    with Path(folder, f"printed_{rank}").open("w") as file:
        with redirect_stdout(file), redirect_stderr(file):
            assert entry(argv) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_on_two_processes_resumes_on_one(tmp_path):
    """By the command, in fp32: relative 1e-5, as T5's and the network's sums are split anew."""
    in_processes(2, _train_by_command, str(tmp_path), [*BASE, "-o", str(tmp_path / "two")])
    printed = "".join((tmp_path / f"printed_{rank}").read_text() for rank in range(2))
    assert printed.count("training finished") == 1 and "2 processes (DDP) on cpu" in printed
    half = stopped_after_three(tmp_path / "two", tmp_path / "half")
    one = tmp_path / "to_one"
    assert entry(["-rd", str(half), "-sg", "0", "--DEVICE", "cpu", "-o", str(one)]) == 0
    assert "continues after step 3" in (one / "training_progress.txt").read_text()
    assert distance(tmp_path / "two", one) < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_one_process_that_is_ended_ends_all_and_the_run_can_go_on(tmp_path, signum):
    """Killed: the others fail within seconds. Asked to stop: all save and exit with its code."""
    endless = [*TINY, "--STAGES", "0", "--STEPS", "100000", "--CHCKPT_NUM", "3", "-o", "ended"]
    process = start(tmp_path, torchrun(2, *endless))
    tmp = tmp_path / "ended" / "tmp"
    until = time.monotonic() + 240
    while not (tmp / "unet_0_step_00000003").is_dir() and time.monotonic() < until:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children()
    ranks = {int(child.environ()["RANK"]): child for child in children}
    ended = time.monotonic()
    ranks[1].send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert time.monotonic() - ended < 60 and process.returncode != 0
    newest = load_newest(tmp, "unet_0_step_")
    assert newest is not None and newest.state["step"] >= 3
    if signum == signal.SIGTERM:
        assert "everything is saved" in output and "exitcode  : 143" in output
        return
    steps = str(newest.state["step"] + 1)
    go_on = ["-rd", "ended", "-sg", "0", "-st", steps, "--DEVICE", "cpu", "-o", "on"]
    printed = run(tmp_path, torchrun(2, *go_on))
    assert printed.count("training finished") == 1 and "Traceback" not in printed
    assert (tmp_path / "on" / "state_dicts" / "unet_0.safetensors").is_file()


OWN_SCRIPT = """
from minimagen import Imagen, TrainingConfig, load_dataset, train

imagen = Imagen.from_parameters({parameters!r})
dataset = load_dataset("shapes", 32, epoch_size=16)
config = TrainingConfig(steps=1, batch_size=2, sample_captions=["a red star"])
for output in ("one", "two"):
    train(imagen, dataset, config, output=output, stages=[0], device="cpu")
"""


@pytest.mark.slow
def test_a_script_of_ones_own_trains_twice_under_torchrun_and_ends_cleanly(tmp_path):
    (tmp_path / "own.py").write_text(OWN_SCRIPT.format(parameters=str(ROOT / "parameters/testing")))
    printed = run(tmp_path, torchrun(2, script="own.py"))
    assert printed.count("training finished") == 2
    assert "Traceback" not in printed and "destroy_process_group" not in printed


class MovableText(HashTextEncoder):
    def to(self, device: torch.device) -> None:
        self.device = device


def train_sharded_or_not(
    output: Path,
    fsdp: bool = False,
    resume: Path | None = None,
    steps: int = 4,
    stages: Sequence[int] = (0,),
    source: Path | None = None,
    **changes,
) -> None:
    parameters = read_parameters(ROOT / "parameters" / "testing")
    adamw = [{"optimizer": "adamw", "optim_lr": 3e-3, "warmup_steps": 0}] * 2
    training = parameters.training.replace(
        learners=adamw, batch_size=4, steps=steps, chckpt_num=2, precision="fp32",
        sample_captions=("a red star",), **changes,
    )  # fmt: skip
    imagen = Imagen(parameters.imagen, MovableText(24))
    train(
        imagen,
        ShapesDataset(size=32),
        training,
        data=parameters.data.replace(valid_num=4),
        output=output,
        processes=launched("cpu", fsdp),
        stages=stages,
        resume=TrainingDirectory.open(resume) if resume else None,
        source=Source(TrainingDirectory.open(source)) if source else None,
    )


def _sharded(rank: int, folder: str) -> None:
    here = Path(folder)
    train_sharded_or_not(here / "sharded", fsdp=True)
    train_sharded_or_not(
        here / "finetuned", fsdp=True, steps=2, stages=(0, 1), source=here / "whole"
    )
    train_sharded_or_not(here / "recomputed", fsdp=True, activation_checkpointing=True)
    half = here / "half"
    launched("cpu").on_rank_0(_cut, here / "sharded", half)
    train_sharded_or_not(here / "again", fsdp=True, resume=half)
    train_sharded_or_not(here / "from_whole", fsdp=True, resume=here / "half_of_whole")


def _cut(directory: Path, copy: Path) -> None:
    shutil.copytree(directory, copy)
    shutil.rmtree(copy / "tmp" / "unet_0_step_00000004")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_sharded_run_equals_a_whole_one_and_each_resumes_the_other(tmp_path):
    """FSDP2 on two processes, AdamW, fp32: weights, safetensors checkpoints, resume both ways."""
    train_sharded_or_not(tmp_path / "whole")
    _cut(tmp_path / "whole", tmp_path / "half_of_whole")
    in_processes(2, _sharded, str(tmp_path))
    checkpoint = tmp_path / "sharded" / "tmp" / "unet_0_step_00000004"
    names = sorted(path.name for path in checkpoint.iterdir())
    assert [Path(name).suffix for name in names] == [".json", *[".safetensors"] * 2, ".json"]
    train_sharded_or_not(tmp_path / "unsharded", resume=tmp_path / "half")
    for name in ("sharded", "recomputed", "again", "from_whole", "unsharded"):
        assert distance(tmp_path / "whole", tmp_path / name) < 1e-5, name
    tuned = {"steps": 2, "stages": (0, 1), "source": tmp_path / "whole"}
    train_sharded_or_not(tmp_path / "finetuned_whole", **tuned)
    for i in range(2):
        assert distance(tmp_path / "finetuned_whole", tmp_path / "finetuned", i) < 1e-5
    one, other = (load_newest(tmp_path / d / "tmp", "unet_0_step_") for d in ("whole", "sharded"))
    assert one is not None and other is not None and one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-3, atol=1e-5)
    part = next(checkpoint.glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    kept = load_newest(tmp_path / "sharded" / "tmp", "unet_0_step_")
    assert kept is not None and kept.state["step"] == 2  # a damaged shard is found


def distil(output: Path, teacher: Path, fsdp: bool = False) -> None:
    parameters = read_parameters(teacher / "parameters")
    first, second = parameters.imagen.stages
    few = parameters.imagen.replace(stages=(first.distilled(2), second))
    train(
        Imagen(few, MovableText(24)),
        ShapesDataset(size=32),
        parameters.training,
        data=parameters.data,
        output=output,
        processes=launched("cpu", fsdp),
        stages=[0],
        teacher=TrainingDirectory.open(teacher),
    )


def _distil_together(rank: int, folder: str) -> None:
    distil(Path(folder, "shared"), Path(folder, "teacher"))
    distil(Path(folder, "sharded"), Path(folder, "teacher"), fsdp=True)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_distil_what_one_does(tmp_path):
    """DDP and FSDP2, fp32; the weights of a stage that is not distilled are there too."""
    teacher = tmp_path / "teacher"
    train_sharded_or_not(teacher, steps=3, stages=(0, 1))
    distil(tmp_path / "alone", teacher)
    in_processes(2, _distil_together, str(tmp_path))
    assert distance(tmp_path / "alone", teacher) > 1e-3
    for name in ("shared", "sharded"):
        assert distance(tmp_path / "alone", tmp_path / name) < 1e-5, name
        kept = Imagen.from_directory(tmp_path / name, MovableText(24))
        assert [stage.distilled_steps for stage in kept.config.stages] == [2, None]


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert many._own_device("auto", 3) == torch.device("cuda", 3)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    with pytest.raises(UserError, match="5 processes for 4 GPUs"):
        many._own_device("auto", 3)
