"""Images per second of one process on one core, and of several processes on a core each.

    python -m benchmarks.processes

The demo's cascade with data and text, under DDP and gloo. It is measured with its own batches and
with batches four times as large, because every process repeats the part of a step that does not
depend on its images. Every process has one thread and stays on its own core. The processes share
the batch, so all cases train the same weights. The numbers of processes alternate. With
``--device cuda`` each process has its own GPU. Run nothing else on the machine meanwhile.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.measuring import (
    ROOT,
    Case,
    Row,
    answer,
    build_parser,
    fingerprint,
    run_cases,
    synchronize,
)
from minimagen import Imagen, ShapesDataset
from minimagen.data.loading.batches import ENCODED_AT_ONCE, training_batches
from minimagen.storage.directory import read_parameters
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.training.processes.launch import launched
from minimagen.training.trainer import Trainer

DEMO, QUICK = ROOT / "parameters", ROOT / "parameters" / "testing"


def measure(case: Case, started: float) -> Row:
    """Launch the processes of one case and return what rank 0 measured."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        command = [*launcher, "--nproc_per_node", str(case["processes"]), "-m"]
        done = subprocess.run(
            [sys.executable, *command, "benchmarks.processes", "--worker", json.dumps(case),
             "--row", str(file)],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{json.dumps(case)} failed:\n{done.stdout}")
        return json.loads(file.read_text("utf-8"))


def work(case: Case, file: Path) -> None:
    """Train as one of the processes; rank 0 writes what it measured to ``file``."""
    if case["device"] == "cpu":
        _keep_to_one_core(int(os.environ["LOCAL_RANK"]))
    processes = launched(case["device"])
    parameters = read_parameters(ROOT / case["cascade"])
    imagen, config, i = Imagen(parameters.imagen), parameters.training, case["stage"]
    stage, steps = imagen.stages[i].to(processes.device), case["warmup"] + case["steps"]
    trainer = Trainer(stage, i, config.learners[i], steps, processes=processes)
    batches = training_batches(
        ShapesDataset(size=parameters.imagen.image_sizes[-1][0]),
        EmbeddingCache(imagen.text_encoder),
        case["batch"],
        config.seed,
        0,
        steps + ENCODED_AT_ONCE,  # more than are trained, so that reading goes on to the end
        rank=processes.rank,
        world=processes.world,
    )
    began = time.perf_counter()
    for batch in processes.in_step(batches):
        trainer.train_step(batch.at(stage.image_sizes, imagen.config.image_sizes[-1]))
        if trainer.step == case["warmup"]:
            synchronize(processes.device)
            began = time.perf_counter()
        if trainer.done:
            break
    synchronize(processes.device)
    seconds = float(processes.mean(torch.tensor(time.perf_counter() - began)))
    if processes.rank == 0:
        images = case["steps"] * case["batch"]
        row = {"images_per_second": images / seconds, "seconds": seconds, "images": images}
        file.write_text(json.dumps(row), "utf-8")


def _keep_to_one_core(number: int) -> None:
    if hasattr(os, "sched_setaffinity"):  # Linux; elsewhere only the number of threads is limited
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def cases(quick: bool, device: str, most: int) -> Iterator[Case]:
    """Yield every case, the numbers of processes alternating."""
    cascade = QUICK if quick else DEMO
    parameters = read_parameters(cascade)
    common: Case = {
        "cascade": str(cascade.relative_to(ROOT)),
        "settings": fingerprint(*parameters[:2]),
        "device": device,
    }
    for stage, times in ((0, 1),) if quick else ((0, 4), (0, 1), (1, 4), (1, 1)):
        batch = times * parameters.training.batch_size_of(stage)
        # Measures three windows of captions, after the one that is read before the first step.
        steps = (
            {"warmup": 1, "steps": 2} if quick else {"warmup": 512 // batch, "steps": 1536 // batch}
        )
        asked = common | {"stage": stage, "batch": batch} | steps
        for repeat in range(1 if quick else 3):
            for count in range(1, most + 1):
                if batch % count == 0:
                    yield asked | {"processes": count, "repeat": repeat}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="[cpu]")
    parser.add_argument("--most", type=int, default=2, help="the most processes at once [2]")
    parser.add_argument("--worker", help="one of the processes that this program launches")
    parser.add_argument("--row", type=Path, help="the file in which rank 0 writes its row")
    arguments = parser.parse_args(argv)
    if arguments.worker:
        work(json.loads(arguments.worker), arguments.row)
        return []
    if answer(arguments, measure):
        return []
    todo = cases(arguments.quick, arguments.device, arguments.most)
    return run_cases("benchmarks.processes", todo, measure, arguments)


if __name__ == "__main__":
    main()
