"""One training step beside diffusers: images/s, memory, FLOP/s, and the v-loss that is reached.

    python -m benchmarks.step

A 64-px base stage and a 64 -> 128 super-resolution stage (``benchmarks/cascade_64_128``), batch 8,
text of 32 x 512, beside diffusers' U-Net with equally many parameters (the nearest width). Each
case has its own process, the sides alternate, and eager cases run several times (``--runs``). bf16
(autocast, weights in fp32) is measured where the device multiplies it natively, ``compiled`` where
torch.compile finds a compiler; otherwise the row gives the reason. The share of the peak refers to
the fastest matrix product of the same process.

``v_loss`` cases train both networks on the same images, with the same decay of the learning rate,
each with its side's optimizer, and compare the error in v of their averaged weights at the same
noises and times.
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.encoders import WideEncoder
from benchmarks.measuring import (
    ROOT,
    Case,
    PeakMemory,
    Row,
    answer,
    build_parser,
    fingerprint,
    matmul_peak,
    run_cases,
    spread,
    time_steps,
)
from benchmarks.peer_recipes import FOR_STEPS
from minimagen import Imagen, ShapesDataset
from minimagen.config import DiffusionConfig
from minimagen.data.loading.batches import training_batches, validation_batches
from minimagen.device import autocast, has_native_bf16, resolve_device
from minimagen.draws import Draws
from minimagen.images import Batch
from minimagen.networks.unet import count_parameters
from minimagen.stages.build import build_stages
from minimagen.stages.diffusion import DiffusionStage
from minimagen.storage.directory import read_parameters
from minimagen.training.trainer import Trainer

CASCADE = ROOT / "benchmarks" / "cascade_64_128"
QUICK_CASCADE = ROOT / "parameters" / "testing"
TOKENS, WIDTH = 32, 512
SEED = 0
MODES = [(p, m) for p in ("fp32", "bf16") for m in ("eager", "compiled")]


class Ours:
    """Our side's network and optimizer.

    Args:
        case: stage, cascade, precision.
        total_steps: Number of steps after which the learning rate is 0.
    """

    def __init__(self, case: Case, total_steps: int) -> None:
        index, device = case["stage"], resolve_device()
        config = read_parameters(Path(case["cascade"])).training.learners[index]
        cascade = read_parameters(Path(case["cascade"])).imagen
        stage = build_stages(cascade, WideEncoder().embed_dim, 0)[index].to(device)
        assert isinstance(stage, DiffusionStage)
        self.stage = stage
        self.full = cascade.image_sizes[-1]
        self.unet = self.stage.unet
        self.trainer = Trainer(
            self.stage, index, config, total_steps, SEED, precision=case["precision"]
        )

    def train_step(self, batch: Batch) -> Tensor:
        """Make one optimizer step."""
        return self.trainer.train_step(self._own(batch))

    def _own(self, batch: Batch) -> Batch:
        return batch.at(self.stage.image_sizes, self.full)

    def loss(self, batch: Batch) -> Tensor:
        """Return the training loss of every example."""
        return self.stage.loss(self._own(batch), Draws(SEED, self.stage.index, 0, len(batch)))

    def v_loss(self, batches: Sequence[Batch]) -> float:
        """Return the error in v of the averaged weights, whatever their loss was."""
        plain = {"space": "v", "weight": "simple"}
        self.stage.config = self.stage.config.replace(loss=plain, cond_drop_prob=0.0)
        return self.trainer.validate([self._own(batch) for batch in batches])


class Diffusers:
    """The peer's network, with equally many parameters, and its optimizer."""

    def __init__(self, case: Case, total_steps: int) -> None:
        from benchmarks import peer_diffusers as peer  # only in the peer's process

        self.index, self.total_steps = case["stage"], total_steps
        imagen = read_parameters(Path(case["cascade"])).imagen
        count = count_parameters(Imagen(imagen, WideEncoder()).stages[self.index])
        recipe = replace(FOR_STEPS, precision=case["precision"])
        side = imagen.image_sizes[self.index][0]
        low = imagen.image_sizes[self.index - 1][0] if self.index else None
        width = peer.matching_width(side, low is not None, WIDTH, count, recipe)
        stage = imagen.stages[self.index]
        assert isinstance(stage, DiffusionConfig)
        aug = stage.aug_level_max
        self.stage = peer.PeerStage(side, low, WIDTH, width, recipe, aug).to(resolve_device())
        self.unet, self.loss = self.stage.unet, self.stage.loss
        self.trainer = peer.PeerTrainer(self.stage, SEED)

    def train_step(self, batch: Batch) -> Tensor:
        """Make one optimizer step."""
        return self.trainer.train_step(batch, self.trainer.step / self.total_steps)

    def v_loss(self, batches: Sequence[Batch]) -> float:
        """Return the error in v of the averaged weights."""
        self.trainer.finish()
        return self.trainer.validate(batches, SEED, self.index)


SIDES: dict[str, type[Ours] | type[Diffusers]] = {"ours": Ours, "diffusers": Diffusers}


def count_flops(learner: Ours | Diffusers, batch: Batch, precision: str) -> int:
    """Return the FLOPs of one step's forward and backward pass; a product and a sum are 2."""
    device = resolve_device()
    with FlopCounterMode(display=False) as counter, autocast(device, precision):
        learner.loss(batch.to(device)).sum().backward()
    learner.stage.zero_grad()
    return counter.get_total_flops()


def measure(case: Case, started: float) -> Row:
    """Measure one case."""
    if why := unavailable(case):
        return {"skipped": why}
    batches = list(_batches(case, 0, case["distinct_batches"]))
    return (_speed if case["what"] == "speed" else _v_loss)(case, batches)


def _speed(case: Case, batches: list[Batch]) -> Row:
    device = resolve_device()
    dtype = torch.bfloat16 if case["precision"] == "bf16" else torch.float32
    peak = matmul_peak(device, dtype, case["matmul_sizes"])
    with PeakMemory(device) as memory:
        learner = SIDES[case["side"]](case, 10**6)
        flops = count_flops(learner, batches[0], case["precision"])
        if case["mode"] == "compiled":
            learner.unet.compile()
        steps = _endless(batches)
        begun = time.perf_counter()
        learner.train_step(next(steps))
        first = time.perf_counter() - begun
        seconds = time_steps(
            lambda: learner.train_step(next(steps)), case["repeats"], case["warmup"], device
        )
    typical = spread(seconds)
    rate = flops / typical["median"]
    return {
        "parameters": count_parameters(learner.stage),
        "images_per_second": case["batch"] / typical["median"],
        "step_seconds": typical,
        "first_step_seconds": first,
        "flops_per_step": flops,
        "achieved_flops": rate,
        "matmul_peak_flops": peak,
        "share_of_peak": rate / peak,
    } | memory.row()


def _v_loss(case: Case, batches: list[Batch]) -> Row:
    learner = SIDES[case["side"]](case, len(batches))
    begun = time.perf_counter()
    for batch in batches:
        learner.train_step(batch)
    seconds = time.perf_counter() - begun
    size = read_parameters(Path(case["cascade"])).imagen.image_sizes[-1][0]
    tune = ShapesDataset("tune", size=size)
    valid = validation_batches(tune, WideEncoder(), case["batch"], case["validated"])
    return {
        "parameters": count_parameters(learner.stage),
        "images": len(batches) * case["batch"],
        "v_loss": learner.v_loss(valid),
        "training_seconds": seconds,
    }


def _batches(case: Case, start: int, stop: int) -> Iterator[Batch]:
    size = read_parameters(Path(case["cascade"])).imagen.image_sizes[-1][0]
    return training_batches(ShapesDataset(size=size), WideEncoder(), case["batch"], 0, start, stop)


def _endless(batches: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from batches


def unavailable(case: Case) -> str | None:
    """Return why a case cannot be measured here, or None."""
    device = resolve_device()
    if case["precision"] == "bf16" and not has_native_bf16(device):
        return "this device does not multiply bfloat16 natively"
    if case["mode"] == "compiled" and device.type == "cpu" and not shutil.which("g++"):
        return "torch.compile needs a C++ compiler"
    return None


def cases(
    quick: bool, images: int, runs: int = 1, stages: Sequence[int] = (0, 1)
) -> Iterator[Case]:
    """Yield every case, the sides alternating; compiled cases take minutes and have one run."""
    cascade = QUICK_CASCADE if quick else CASCADE
    batch = 2 if quick else 8
    common = {
        "cascade": str(cascade.relative_to(ROOT)),
        "settings": fingerprint(*read_parameters(cascade)[:2]),
        "batch": batch,
    }
    speed = common | {
        "what": "speed",
        "repeats": 3 if quick else 15,
        "warmup": 1 if quick else 3,
        "distinct_batches": 2 if quick else 4,
        "matmul_sizes": [128] if quick else [1024, 2048, 4096],
    }
    learning = common | {"what": "v_loss", "distinct_batches": images // batch}
    learning |= {"validated": 4 if quick else 128, "precision": "auto", "mode": "eager"}
    modes = [("fp32", "eager")] if quick else MODES
    for stage in stages:
        for precision, mode in modes:
            for run in range(runs if mode == "eager" else 1):
                setting = dict(stage=stage, precision=precision, mode=mode, run=run)
                for side in SIDES:
                    yield speed | setting | {"side": side}
        for side in SIDES:
            yield learning | {"side": side, "stage": stage}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--images", type=int, help="for v_loss cases [1024; quick 4]")
    parser.add_argument("--runs", type=int, default=3, help="of each eager case [3; quick 1]")
    parser.add_argument("--stage", type=int, help="this one alone [quick 1]")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    quick = arguments.quick
    images, runs = arguments.images or (4 if quick else 1024), 1 if quick else arguments.runs
    one = 1 if quick else arguments.stage
    stages = (0, 1) if one is None else (one,)
    return run_cases("benchmarks.step", cases(quick, images, runs, stages), measure, arguments)


if __name__ == "__main__":
    main()
