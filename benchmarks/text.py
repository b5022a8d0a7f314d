"""What text costs: captions/s, bytes per caption, share of a training step, start, memory.

    python -m benchmarks.text

``encode``: the embedded data's captions through the bundled T5 onto an empty disk store, then all
of them again out of it by another cache. ``step``: the demo's first stage trains; the share of the
time between steps that is spent on text, without a cache (every caption through T5), with a cold
cache and with a warm one. ``start``: from typing ``train.py`` to the first step, on a new folder,
and again after its captions have been encoded. ``memory``: private (anonymous) memory while 10^4,
10^5 and 10^6 generated captions are written and looked up; a stub of t5_mini's width replaces T5,
whose own memory does not depend on their number. ``retrieval``: what the embeddings of the encoders
say of captions of COCO and of emoji (benchmarks/retrieval.py), where there is that data (in
``$MINIMAGEN_BENCHMARK_DATA`` or ``../shared/data``); ``minilm`` where its package is installed.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from benchmarks.data import SIDE, write_folder
from benchmarks.encoders import Clock, FixedEncoder
from benchmarks.measuring import (
    ROOT,
    Case,
    Row,
    answer,
    build_parser,
    fingerprint,
    private_bytes,
    run_cases,
    synchronize,
)
from benchmarks.real_data import available
from benchmarks.retrieval import SOURCES, retrieval
from minimagen import Imagen, ShapesDataset
from minimagen.cli import data as data_command
from minimagen.config.data import EPOCH_SIZE
from minimagen.data.loading.batches import ENCODED_AT_ONCE, training_batches
from minimagen.device import resolve_device
from minimagen.errors import UserError
from minimagen.storage.directory import read_parameters
from minimagen.storage.tensor_store import TensorStore
from minimagen.text.build import build
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.names import BUNDLED, PACKAGED, find_source
from minimagen.text.pretrained import PretrainedEncoder
from minimagen.training.trainer import Trainer

MODES = ("without", "cold", "warm")
TOKENS, WIDTH = 12, 128  # of a caption in the memory cases; the mean of the embedded data is 11.3


TO_FIRST_STEP = """
import os, sys, time
from minimagen.cli import train
from minimagen.training.trainer import Trainer

def train_step(trainer, batch):
    print(time.time() - float(sys.argv[1]), flush=True)
    os._exit(0)

Trainer.train_step = train_step
sys.exit(train.entry(sys.argv[2:]))
"""


def measure(case: Case, started: float) -> Row:
    """Measure one case in a folder that is removed afterwards."""
    kinds = {"encode": _encode, "step": _step, "start": _start, "memory": _memory}
    kinds |= {"retrieval": _retrieval}
    with tempfile.TemporaryDirectory() as folder:
        return kinds[case["what"]](case, Path(folder))


def _encode(case: Case, folder: Path) -> Row:
    encoder = PretrainedEncoder(device=resolve_device())
    encoder.load()
    store = TensorStore(folder)
    cache = EmbeddingCache(encoder, store)
    writing = _pass(cache, case["captions"])
    distinct = cache.encoded
    again = EmbeddingCache(encoder, TensorStore(folder))
    reading = _pass(again, case["captions"])
    assert again.encoded == 0, "a caption was encoded twice"
    return {
        "distinct": distinct,
        "captions_per_second": distinct / writing,
        "found_per_second": case["captions"] / reading,
        "bytes_per_caption": sum(f.stat().st_size for f in folder.iterdir()) / distinct,
    }


def _pass(cache: EmbeddingCache, count: int) -> float:
    """Return the seconds that the captions of a data set take, without the time of drawing them."""
    captions = _captions(count)
    seconds = 0.0
    while window := list(itertools.islice(captions, ENCODED_AT_ONCE)):
        started = time.perf_counter()
        cache.fill(window)
        seconds += time.perf_counter() - started
    return seconds


def _captions(count: int) -> Iterator[str]:
    return (caption for (caption,) in ShapesDataset(epoch_size=count).captions())


def _step(case: Case, folder: Path) -> Row:
    device, parameters = resolve_device(), read_parameters(Path(case["cascade"]))
    imagen = Imagen(parameters.imagen).to(device)
    encoder = PretrainedEncoder(device=device)
    encoder.load()
    side, batch, mode = parameters.imagen.image_sizes[-1][0], case["batch"], case["mode"]
    dataset = ShapesDataset(size=side, epoch_size=case.get("captions", EPOCH_SIZE))
    trainer = Trainer(imagen.stages[0], 0, parameters.training.learners[0], 10**6)
    if mode == "warm":
        EmbeddingCache(encoder, TensorStore(folder)).fill([text for (text,) in dataset.captions()])
    cached = EmbeddingCache(encoder, TensorStore(folder))
    clock = Clock(encoder if mode == "without" else cached)
    warmup = list(training_batches(dataset, encoder, batch, 1, 0, 2))
    for each in warmup:
        trainer.train_step(each.at(imagen.stages[0].image_sizes, imagen.config.image_sizes[-1]))
    synchronize(device)
    started = time.perf_counter()
    for each in training_batches(dataset, clock, batch, 0, 0, case["steps"]):
        trainer.train_step(each.at(imagen.stages[0].image_sizes, imagen.config.image_sizes[-1]))
    synchronize(device)
    seconds = time.perf_counter() - started
    return {
        "step_seconds": seconds / case["steps"],
        "text_seconds": clock.seconds / case["steps"],
        "share": clock.seconds / seconds,
    }


def _start(case: Case, folder: Path) -> Row:
    data = folder / "data"
    data.mkdir()
    write_folder(data, SIDE, case["images"])
    cache = {"MINIMAGEN_CACHE": str(folder / "cache")}
    environment = os.environ | cache | {"PYTHONPATH": str(ROOT)}

    def start(output: str) -> float:
        flags = ["--DATASET", str(data), "--PARAMETERS", case["cascade"], "--STEPS", "9"]
        flags += ["--OUTPUT", str(folder / output)]
        command = [sys.executable, "-c", TO_FIRST_STEP, str(time.time()), *flags]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{flags} failed:\n{done.stdout}{done.stderr}")
        return float(done.stdout.splitlines()[-1])

    first = start("first")
    with patch.dict(os.environ, cache):
        if data_command.main(["encode", str(data)]):
            raise RuntimeError("`data encode` failed; its own message is above")
    return {"first_seconds": first, "again_seconds": start("again")}


def _memory(case: Case, folder: Path) -> Row:
    before, peak, seconds = private_bytes(), 0, {}
    for name in ("write", "find"):
        cache = EmbeddingCache(FixedEncoder(TOKENS, WIDTH), TensorStore(folder))
        captions = (f"generated caption {i}" for i in range(case["captions"]))
        started = time.perf_counter()
        while window := list(itertools.islice(captions, ENCODED_AT_ONCE)):
            cache.fill(window)
            peak = max(peak, private_bytes())
        seconds[f"{name}_seconds"] = time.perf_counter() - started
    on_disk = sum(file.stat().st_size for file in folder.iterdir())
    memory = {"private_bytes_before": before, "private_bytes_peak": peak, "disk_bytes": on_disk}
    return memory | seconds


def _retrieval(case: Case, folder: Path) -> Row:
    return retrieval(case["data"], build(case["encoder"], 128))


def _encoders() -> Iterator[str]:
    """Yield the encoders that need no network."""
    for name in (*BUNDLED, *PACKAGED):
        with suppress(UserError):
            find_source(name)
            yield name


def cases(quick: bool) -> Iterator[Case]:
    """Yield all cases."""
    cascade = ROOT / "parameters" / ("testing" if quick else "")
    yield {"what": "encode", "encoder": "t5_mini", "captions": 200 if quick else 20_000}
    for mode in MODES:
        yield {
            "what": "step",
            "mode": mode,
            "cascade": str(cascade.relative_to(ROOT)),
            "settings": fingerprint(*read_parameters(cascade)[:2]),
            "batch": 4 if quick else 32,
            "steps": 2 if quick else 64,
        } | ({"captions": 200} if quick else {})  # that a warm cache holds; all of an epoch
    for repeat in range(1 if quick else 3):
        start = {"images": 40 if quick else 4096, "repeat": repeat}
        yield {"what": "start", "cascade": str(cascade.relative_to(ROOT))} | start
    for captions in (200, 400) if quick else (10**4, 10**5, 10**6):
        yield {"what": "memory", "captions": captions, "tokens": TOKENS, "width": WIDTH}
    for data in SOURCES if available() and not quick else ():
        for encoder in _encoders():
            case = {"what": "retrieval", "data": data, "encoder": encoder}
            yield case | ({"decay_of": "another fold"} if data == "emoji" else {})


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    arguments = build_parser(__doc__).parse_args(argv)
    if answer(arguments, measure):
        return []
    return run_cases("benchmarks.text", cases(arguments.quick), measure, arguments)


if __name__ == "__main__":
    main()
