"""What training and sampling promise, on a CPU and on a GPU: ``python -m benchmarks.gpu tests``."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from minimagen.config import DiffusionConfig, LearnerTrainingConfig
from minimagen.device import autocast, resolve_device, widest_float
from minimagen.draws import Draws, SeededNoise
from minimagen.errors import UserError
from minimagen.images import Batch
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.stage import Condition
from minimagen.training.trainer import Trainer

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it to repeat itself
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = pytest.param("cuda", marks=[pytest.mark.cuda, no_gpu])
devices = pytest.mark.parametrize("device", ["cpu", CUDA])
on_cuda = pytest.mark.parametrize("device", [CUDA])
pytestmark = pytest.mark.usefixtures("one_thread")
# what torch itself uses while it compiles
traced = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")

UNET = {"dim": 16, "dim_mults": (1, 2), "layer_attns": (False, True), "attn_heads": 2}
CONFIG = DiffusionConfig(unet=UNET | {"attn_head_dim": 8})
SIZE, LOW_RES = (16, 16), (8, 8)

MakeStage = Callable[[str], DiffusionStage]
MakeBatch = Callable[..., Batch]


@pytest.fixture
def make_stage(wake, text_encoder) -> MakeStage:
    def make(device: str) -> DiffusionStage:
        torch.manual_seed(0)
        stage = DiffusionStage(1, CONFIG, SIZE, LOW_RES, text_encoder.embed_dim)
        return wake(stage).to(device)

    return make


@pytest.fixture
def full_precision() -> Iterator[None]:
    """Convolutions in float32, which cuDNN would round to TF32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Without it some kernels of a GPU add in an order of their own each time."""
    torch.use_deterministic_algorithms(True)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield
    torch.use_deterministic_algorithms(False)


def train(trainer: Trainer, batch: Batch, steps: int) -> Tensor:
    for _ in range(steps):
        trainer.train_step(batch)
    trainer.check()
    return torch.cat([p.detach().flatten().cpu() for p in trainer.learner.parameters()])


@devices
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("deterministic")
def test_a_resumed_run_ends_with_the_same_bits(
    make_stage: MakeStage, make_batch: MakeBatch, device: str, precision: str
) -> None:
    def trainer() -> Trainer:
        return Trainer(make_stage(device), 1, LearnerTrainingConfig(), 9, precision=precision)

    batch, straight, first, resumed = make_batch(4, 16, 8), trainer(), trainer(), trainer()
    expected = train(straight, batch, 5)
    train(first, batch, 2)
    saved = {name: value.detach().clone() for name, value in first.tensors().items()}
    resumed.load(saved, first.state())
    assert torch.equal(train(resumed, batch, 3), expected)


@devices
def test_the_loss_in_bf16_is_close_to_the_cpus_in_fp32(
    make_stage: MakeStage, make_batch: MakeBatch, device: str
) -> None:
    batch, draws = make_batch(8, 16, 8), Draws(0, 1, 0, 8)
    expected = make_stage("cpu").loss(batch, draws)
    place = torch.device(device)
    with autocast(place, "bf16"):
        found = make_stage(device).loss(batch.to(place), draws)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=0.02, atol=0.02)


def sampled(stage: DiffusionStage, condition: Condition, seeds: list[int]) -> Tensor:
    stage.eval()
    sampling = stage.settings(timesteps=3, guidance_scale=2.0)
    return stage.sample(condition, SeededNoise(seeds, 1), sampling).cpu()


@pytest.fixture
def make_condition(make_batch: MakeBatch) -> Callable[[str, list[int]], Condition]:
    whole = make_batch(6, 16, 8)
    assert whole.low_res is not None
    low_res = whole.low_res

    def make(device: str, rows: list[int]) -> Condition:
        parts = whole.text_embeds[rows], whole.text_mask[rows], low_res[rows]
        return Condition(*(part.to(device) for part in parts))

    return make


@devices
@pytest.mark.usefixtures("full_precision")
def test_an_image_does_not_depend_on_its_batch(
    make_stage: MakeStage, make_condition: Callable[..., Condition], device: str
) -> None:
    """To the bit in the same batch shape, to rounding in another."""
    stage = make_stage(device)
    several = sampled(stage, make_condition(device, [0, 1, 2]), [7, 8, 9])
    others = sampled(stage, make_condition(device, [5, 1, 4]), [3, 8, 1])
    alone = sampled(stage, make_condition(device, [1]), [8])
    assert torch.equal(several[1], others[1])
    torch.testing.assert_close(alone[0], several[1], rtol=0, atol=1e-3)
    assert not torch.allclose(several[0], others[0], atol=0.1)


@on_cuda
@pytest.mark.usefixtures("full_precision")
def test_a_gpu_samples_the_cpus_images(
    make_stage: MakeStage, make_condition: Callable[..., Condition], device: str
) -> None:
    one, other = (
        sampled(make_stage(place), make_condition(place, [0, 1]), [4, 5])
        for place in ("cpu", device)
    )
    torch.testing.assert_close(other, one, rtol=0, atol=5e-3)


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Inside, an operation for which the host waits raises a RuntimeError."""
    try:
        with warnings.catch_warnings(action="ignore"):  # torch says that it does not see all
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_cuda
@traced
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_host_does_not_wait_in_a_step(
    make_stage: MakeStage, make_batch: MakeBatch, device: str, optimizer: str, compiled: bool
) -> None:
    stage, batch = make_stage(device), make_batch(4, 16, 8).pin_memory()
    stage.compile_blocks(compiled)
    config = LearnerTrainingConfig(optimizer=optimizer)
    trainer = Trainer(stage, 1, config, 9, accum_iter=2, precision="bf16")
    train(trainer, batch, 2)
    with waiting_refused():
        for _ in range(3):
            trainer.train_step(batch)
    trainer.check()


@on_cuda
def test_noise_lies_in_page_locked_memory(
    make_stage: MakeStage, make_batch: MakeBatch, device: str
) -> None:
    trainer = Trainer(make_stage(device), 1, LearnerTrainingConfig(), 9)
    train(trainer, make_batch(4, 16, 8), 1)
    assert trainer.noise is not None
    coming = [task.result() for task in trainer.noise._coming.values()]
    assert len(coming) == 2 and all(numbers.is_pinned() for numbers in coming)


@on_cuda
@traced
def test_a_compiled_step_is_the_step(
    make_stage: MakeStage, make_batch: MakeBatch, device: str
) -> None:
    batch, ends = make_batch(4, 16, 8), []
    for compiled in (False, True):
        stage = make_stage(device)
        stage.compile_blocks(compiled)
        trainer = Trainer(stage, 1, LearnerTrainingConfig(optimizer="adamw"), 9, precision="bf16")
        ends.append(train(trainer, batch, 2))
    torch.testing.assert_close(*ends, rtol=0, atol=5e-3)


def test_sums_are_in_float64_where_a_device_has_it() -> None:
    """PyTorch raises a TypeError for float64 on Apple's GPUs."""
    assert widest_float(torch.device("mps")) == torch.float32
    assert {widest_float(torch.device(kind)) for kind in ("cpu", "cuda")} == {torch.float64}


def test_a_device_may_be_one_of_torchs() -> None:
    assert resolve_device(torch.device("cpu")) == torch.device("cpu") == resolve_device("cpu")
    with pytest.raises(UserError, match="'cuda:99' is not available here"):
        resolve_device(torch.device("cuda", 99))
