"""Speed of a training step on a GPU, and of sampling, beside diffusers' U-Net of equal size.

The cascade is ``parameters/imagen_300m_64_256``, on random images and embeddings. Each case has its
own process. Steps follow one another without waiting for the GPU, as in training; FLOPs are those
of the forward and backward pass of one image, counted as they run, times the batch. The share of
the peak is that of the data sheet, where it is known, and that of the fastest bf16 product here.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import (
    RESULTS,
    ROOT,
    Case,
    PeakMemory,
    Row,
    append,
    matmul_peak,
    synchronize,
)
from minimagen.config import ImagenConfig, Size
from minimagen.device import autocast
from minimagen.draws import Draws, SeededNoise, generator
from minimagen.images import Batch, to_model_space
from minimagen.networks.unet import count_parameters
from minimagen.stages.build import build_stages
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.stage import Condition
from minimagen.storage.directory import read_parameters
from minimagen.text.build import build
from minimagen.training.trainer import Trainer

PRESET, TINY = "imagen_300m_64_256", "testing"
TOKENS = 32  # captions of the web have about 20
DATA_SHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""bf16 FLOP/s, dense, of the card whose name holds the key."""


def cases(tiny: bool) -> Iterator[Case]:
    """Yield what is measured, the most wanted first: the last ones may find no time left."""
    common = {"preset": TINY if tiny else PRESET, "steps": 1 if tiny else 20, "tiny": tiny}
    for stage, batch in ((1, 32),) if tiny else ((0, 64), (1, 32)):
        own = common | {"stage": stage, "batch": 2 if tiny else batch}
        for side, mode in (("ours", "compiled"), ("diffusers", "compiled"), ("ours", "eager")):
            yield own | {"side": side, "mode": "eager" if tiny else mode, "what": "step"}
        yield own | {"side": "ours", "mode": "eager", "what": "sampling"}


def run(arguments: argparse.Namespace, deadline: float) -> int:
    """Measure all cases that the time allows, and print and append their rows."""
    folder = arguments.results or (RESULTS / "quick" if arguments.tiny else RESULTS)
    for case in cases(arguments.tiny):
        row = measure(case) if arguments.tiny else _in_own_process(case, deadline)
        append("gpu", case, row, folder)
        print(json.dumps(case | row), flush=True)
    return 0


def _in_own_process(case: Case, deadline: float) -> Row:
    command = [sys.executable, "-m", "benchmarks.gpu.step", json.dumps(case)]
    left = deadline - time.monotonic()
    if left < 10:
        return {"skipped": "no time left"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            timeout=left,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"not finished in the {left:.0f} s that were left"}
    if done.returncode:
        ended = f"ended with {done.returncode}"
        return {"failed": (done.stderr.strip() or ended).splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(case: Case) -> Row:
    """Measure one case."""
    device = torch.device("cpu" if case["tiny"] else "cuda")
    parameters = read_parameters(ROOT / "parameters" / case["preset"])
    imagen, i = parameters.imagen, case["stage"]
    width = build(imagen.text_encoder_name, imagen.max_num_words).embed_dim
    stage = build_stages(imagen, width, 0)[i]
    assert isinstance(stage, DiffusionStage)
    batch = make_batch(imagen, i, case["batch"], width)
    if case["what"] == "sampling":
        return _sampling(stage.to(device), batch, case["steps"])
    if case["side"] == "ours":
        trainer = Trainer(
            stage.to(device), i, parameters.training.learners[i], 10**6, precision="bf16"
        )
        return _speed(case, stage, trainer.train_step, stage.unet.compile_blocks, batch)
    try:
        peer = _peer(imagen, i, width, count_parameters(stage), device)
    except ImportError as error:
        return {"skipped": str(error)}
    return _speed(
        case, peer.stage, lambda b: peer.train_step(b, 0.5), peer.stage.unet.compile, batch
    )


def make_batch(imagen: ImagenConfig, i: int, count: int, width: int) -> Batch:
    """Return random images and embeddings for stage ``i``, in page-locked memory for a GPU."""
    random = generator("gpu", i)
    size, low_res_size = _sizes(imagen, i)

    def images(height: int, width: int) -> Tensor:
        shape = count, 3, height, width
        return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)

    embeds = torch.randn(count, TOKENS, width, generator=random)
    mask = torch.ones(count, TOKENS, dtype=torch.bool)
    low_res = images(*low_res_size) if low_res_size else None
    batch = Batch(images(*size), embeds, mask, (), low_res)
    return batch.pin_memory() if torch.cuda.is_available() else batch


def _sizes(imagen: ImagenConfig, i: int) -> tuple[Size, Size | None]:
    return imagen.image_sizes[i], imagen.image_sizes[i - 1] if i else None


def _peer(imagen: ImagenConfig, i: int, width: int, parameters: int, device: torch.device) -> Any:
    """Return the trainer of diffusers' U-Net with the number of parameters nearest to ours."""
    from benchmarks import peer_diffusers
    from benchmarks.peer_recipes import FOR_STEPS

    recipe = replace(FOR_STEPS, precision="bf16")
    size, low_res_size = imagen.stages[i].trained_on(*_sizes(imagen, i))
    low = low_res_size[0] if low_res_size else None
    channels = peer_diffusers.matching_width(size[0], low is not None, width, parameters, recipe)
    stage = peer_diffusers.PeerStage(size[0], low, width, channels, recipe)
    return peer_diffusers.PeerTrainer(stage.to(device))


def _speed(
    case: Case,
    learner: Any,
    train_step: Callable[[Batch], object],
    compile_it: Callable[[], object],
    batch: Batch,
) -> Row:
    """Time steps that follow one another, after three to warm up."""
    device = learner.device
    with PeakMemory(device) as memory:
        flops = count_flops(learner, batch[:1]) * len(batch)
        if case["mode"] == "compiled":
            compile_it()
        first = _seconds(lambda: train_step(batch), 1, device)
        _seconds(lambda: train_step(batch), 2, device)
        seconds = _seconds(lambda: train_step(batch), case["steps"], device)
    rate = flops / seconds
    peak = matmul_peak(device, torch.bfloat16, [256] if case["tiny"] else [4096, 8192])
    return {
        "parameters": count_parameters(learner),
        "images_per_second": len(batch) / seconds,
        "step_seconds": seconds,
        "first_step_seconds": first,
        "flops_per_step": flops,
        "share_of_matmul": rate / peak,
        "share_of_data_sheet": rate / sheet if (sheet := data_sheet(device)) else None,
    } | memory.row()


def count_flops(learner: Any, batch: Batch) -> int:
    """Return the FLOPs of a forward and backward pass in bf16; a product and a sum are 2."""
    draws = Draws(0, 0, 0, len(batch))
    with FlopCounterMode(display=False) as counter, autocast(learner.device, "bf16"):
        learner.loss(batch.to(learner.device), draws).sum().backward()
    learner.zero_grad()
    return counter.get_total_flops()


def data_sheet(device: torch.device) -> float | None:
    """Return the card's bf16 FLOP/s by its data sheet; None for one that is not listed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((flops for card, flops in DATA_SHEET.items() if card in name), None)


def _sampling(stage: DiffusionStage, batch: Batch, repeats: int) -> Row:
    """Time images of the stage with its own sampling settings, eager and in bf16."""
    stage.eval()
    own = batch.to(stage.device)
    low_res = None if own.low_res is None else to_model_space(own.low_res)
    condition = Condition(own.text_embeds, own.text_mask, low_res)
    noise, sampling = SeededNoise(range(len(batch)), stage.index), stage.settings()

    def sample() -> None:
        with autocast(stage.device, "bf16"):
            stage.sample(condition, noise, sampling)

    _seconds(sample, 1, stage.device)
    seconds = _seconds(sample, max(1, repeats // 10), stage.device)
    return {"images_per_second": len(batch) / seconds, "timesteps": sampling.timesteps}


def _seconds(act: Callable[[], object], times: int, device: torch.device) -> float:
    """Return the mean time of one of several calls, waiting for the device at the end alone."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        act()
    synchronize(device)
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
