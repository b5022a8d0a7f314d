"""How fast are images read, how long does training wait for them, and what do long lists cost?

    taskset -c 0 python -m benchmarks.data      # samples/s are meant per core
    python -m benchmarks.data --only waiting    # with all cores, as the demo runs

* speed: samples/s of every source through the whole pipeline (order, captions, decoding, batches)
  at 64 px, and of large images at their own size. The first pass decodes files that the system
  has in its cache; later passes find decoded images in memory. Text encoding is left out:
  ``benchmarks.text`` measures it.
* waiting: the share of the demo's training time that is spent waiting for the next batch, and how
  much of that is text, by stage and number of workers, after every image of a folder has been
  read once (drawn ones are always new).
* memory: private memory that a list of 10^4 ... 10^6 captioned images takes.
"""

import io
import itertools
import json
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import ROOT, Case, Row, answer, build_parser, run_cases

if TYPE_CHECKING:
    from minimagen.data.dataset import IndexedDataset, StreamedDataset

SIDE, BATCH = 64, 64
IMAGES = 4096
LARGE, LARGE_IMAGES = 1024, 192  # what the last stage of a large cascade reads
SHARD = 1024  # images in one
PASSES = 3  # through decoded images
SOURCES = ("shapes", "folder", "parquet", "saved", "shards")
ROWS = (10**4, 10**5, 10**6)
FILES = 1000  # to which the files of the long lists are links


def photos(count: int, side: int) -> Iterator[bytes]:
    """Yield JPEG files with about as much detail as photographs."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        fine = random.normal(0, 6, (side, side, 3))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) + fine
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def caption(number: int) -> str:
    """Return the caption of an image."""
    return f"photograph number {number} of a thing on a background"


def write_folder(folder: Path, side: int, count: int) -> Path:
    """Write images and metadata.jsonl."""
    rows = []
    for i, content in enumerate(photos(count, side)):
        (folder / f"{i}.jpg").write_bytes(content)
        rows.append(json.dumps({"file_name": f"{i}.jpg", "text": caption(i)}))
    (folder / "metadata.jsonl").write_text("\n".join(rows), "utf-8")
    return folder


def write_shards(folder: Path, side: int, count: int) -> Path:
    """Write tar shards as img2dataset does: image, json, txt."""
    content = photos(count, side)
    for first in range(0, count, SHARD):
        with tarfile.open(folder / f"{first // SHARD:05d}.tar", "w") as tar:
            for i in range(first, min(first + SHARD, count)):
                metadata = json.dumps(
                    {"caption": caption(i), "key": f"{i:09d}", "status": "success"}
                )
                text = caption(i).encode()
                members = {"jpg": next(content), "json": metadata.encode(), "txt": text}
                for suffix, part in members.items():
                    info = tarfile.TarInfo(f"{i:09d}.{suffix}")
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))
    return folder


def _table(folder: Path, side: int, count: int) -> Any:
    import datasets

    datasets.disable_progress_bars()
    images = [{"bytes": content, "path": None} for content in photos(count, side)]
    rows = {"image": images, "text": [caption(i) for i in range(count)]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict(rows, features)


def write_parquet(folder: Path, side: int, count: int) -> Path:
    """Write one parquet file with images in it."""
    _table(folder, side, count).to_parquet(str(folder / "data.parquet"))
    return folder


def write_saved(folder: Path, side: int, count: int) -> Path:
    """Write what ``datasets``' save_to_disk writes."""
    _table(folder, side, count).save_to_disk(str(folder / "saved"))
    return folder / "saved"


WRITERS: dict[str, Callable[[Path, int, int], Path]] = {
    "folder": write_folder,
    "parquet": write_parquet,
    "saved": write_saved,
    "shards": write_shards,
}


def opened(
    source: str, folder: Path, stored: int, count: int, side: int
) -> "IndexedDataset | StreamedDataset":
    """Return the training part of freshly written data."""
    from minimagen.data.open import load_dataset

    path = source if source == "shapes" else WRITERS[source](folder, stored, count)
    dataset = load_dataset(path, (side, side))
    return dataset.split(0.9, 0, 8)[0]


def speed(case: Case) -> Row:
    """Return samples per second of the first and of later passes, by the clock and by the core."""
    import torch

    from benchmarks.encoders import FixedEncoder
    from minimagen.data.loading.batches import training_batches

    torch.set_num_threads(1)
    encoder = FixedEncoder(1, 8)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINIMAGEN_CACHE"] = f"{folder}/cache"
        (Path(folder) / "data").mkdir()
        where, count = Path(folder) / "data", case["count"]
        data = opened(case["source"], where, case["stored"], count, case["side"])
        epoch = round(0.9 * count) // BATCH  # whole batches
        row: Row = {}
        for name, first, last in (("first", 0, epoch), ("later", epoch, (1 + PASSES) * epoch)):
            clock, core = time.perf_counter(), time.process_time()
            batches = training_batches(data, encoder, BATCH, 0, first, last)
            samples = sum(len(batch.images) for batch in batches)
            row[f"{name}_per_second"] = samples / (time.perf_counter() - clock)
            row[f"{name}_per_core_second"] = samples / (time.process_time() - core)
    return row


def waiting(case: Case) -> Row:
    """Return the share of a stage's training time in which it waits for batches, and for text."""
    from benchmarks.encoders import Clock
    from minimagen.data.loading.batches import ENCODED_AT_ONCE, training_batches
    from minimagen.imagen import Imagen
    from minimagen.storage.directory import read_parameters
    from minimagen.text.cache.cache import EmbeddingCache
    from minimagen.text.pretrained import PretrainedEncoder
    from minimagen.training.trainer import Trainer

    parameters = read_parameters(ROOT / case["parameters"])
    config, training, i = parameters.imagen, parameters.training, case["stage"]
    encoder = PretrainedEncoder(config.text_encoder_name, config.max_num_words)
    imagen = Imagen(config, encoder)
    trainer = Trainer(imagen.stages[i], i, training.learners[i], case["steps"])
    size = training.batch_size_of(i)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINIMAGEN_CACHE"] = f"{folder}/cache"
        (Path(folder) / "data").mkdir()
        side = config.image_sizes[-1][0]
        data = opened(case["source"], Path(folder) / "data", 256, case["count"], side)
        encode = Clock(EmbeddingCache.on_disk(encoder, case["source"] == "shapes"))
        first = case["warmup"]
        ahead = first + case["steps"] + ENCODED_AT_ONCE  # steps that are not reached
        batches = training_batches(data, encode, size, 0, 0, ahead, case["num_workers"])
        for _ in range(first):
            next(batches)  # every image of a folder, none of them trained on
        encode.seconds = waited = 0.0
        before = started = time.perf_counter()
        for batch in itertools.islice(batches, case["steps"]):
            waited += time.perf_counter() - before
            trainer.train_step(batch.at(imagen.stages[i].image_sizes, config.image_sizes[-1]))
            before = time.perf_counter()
        seconds = before - started
    return {
        "share": waited / seconds,
        "text_share": encode.seconds / seconds,
        "step_seconds": (seconds - waited) / case["steps"],
    }


def memory(case: Case) -> Row:
    """Return the private memory that a long list takes once it is stored, and while it is read."""
    from minimagen.data.images.dataset import ImageDataset
    from minimagen.data.sources.folder import metadata_table

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MINIMAGEN_CACHE"] = f"{name}/cache"
        originals = [folder / f"{i}.jpg" for i in range(min(FILES, case["rows"]))]
        for path, content in zip(originals, photos(len(originals), SIDE), strict=True):
            path.write_bytes(content)
        with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
            for i in range(case["rows"]):
                link = folder / f"link_{i}.jpg"
                os.link(originals[i % len(originals)], link)
                file.write(json.dumps({"file_name": link.name, "text": caption(i)}) + "\n")
        small = metadata_table(_one_image(folder / "warm") / "metadata.jsonl", "text")
        assert ImageDataset(small)[0].caption  # what reading any list allocates is in use now
        before = private()
        started = time.perf_counter()
        table = metadata_table(folder / "metadata.jsonl", "text")
        seconds, after_list = time.perf_counter() - started, private()
        started = time.perf_counter()
        again = metadata_table(folder / "metadata.jsonl", "text")
        seconds_again = time.perf_counter() - started
        uncached = ImageDataset(again, cache_bytes=0)
        for index in range(0, len(uncached), max(1, len(uncached) // 5000)):
            uncached[index]
        return {
            "list_bytes": after_list - before,
            "read_bytes": private() - before,
            "seconds": seconds,
            "seconds_again": seconds_again,
            "length": len(table),
        }


def _one_image(folder: Path) -> Path:
    folder.mkdir()
    return write_folder(folder, SIDE, 1)


def private() -> int:
    """Return this process's anonymous memory in bytes: what is not a mapped file."""
    status = Path("/proc/self/status").read_text("ascii")
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert match is not None, "needs Linux"
    return 1024 * int(match[1])


MEASURES: dict[str, Callable[[Case], Row]] = {"speed": speed, "waiting": waiting, "memory": memory}


def measure(case: Case, started: float) -> Row:
    """Measure one case."""
    return MEASURES[case["what"]](case)


def cases(quick: bool, only: Sequence[str]) -> Iterator[Case]:
    """Yield what to measure."""
    count = 128 if quick else IMAGES
    for source in SOURCES if "speed" in only else ():
        asked = {"what": "speed", "source": source, "side": SIDE, "count": count}
        for stored in (SIDE,) if quick or source == "shapes" else (SIDE, 256):
            yield asked | {"stored": stored}
        if source == "folder" and not quick:
            yield asked | {"stored": LARGE, "side": LARGE, "count": LARGE_IMAGES}
    demo = {"parameters": "parameters/testing" if quick else "parameters", "count": count // 4}
    for stage in (0,) if quick else (0, 1):
        for source in (("shapes",) if quick else ("shapes", "folder")) if "waiting" in only else ():
            for workers in (0,) if quick else (0, 1):
                asked = {"stage": stage, "source": source, "num_workers": workers}
                steps = {"warmup": 64, "steps": 4 if quick else 64}
                yield {"what": "waiting"} | demo | asked | steps
    for rows in ((100,) if quick else ROWS) if "memory" in only else ():
        yield {"what": "memory", "rows": rows}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    todo = cases(arguments.quick, arguments.only)
    return run_cases("benchmarks.data", todo, measure, arguments)


if __name__ == "__main__":
    main()
