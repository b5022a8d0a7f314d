"""Does training's memory stay flat? Anonymous memory after 500 and after 5,000 batches.

    python -m benchmarks.memory
    python -m benchmarks.memory --sources parquet --workers 0    # a part of the cases

The base of the testing preset is trained on 2,000 photographs in a folder, in a parquet file and in
tar shards (a stream), read by no worker and by two. Anonymous memory (that of no file) is summed
over the process and its children. Half of the cases have glibc take all memory from the heap, as it
does by itself once a process has freed a large block: there a small object that stays keeps the
freed buffers around it from being used again.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.data import WRITERS
from benchmarks.measuring import ROOT, Case, Row, answer, build_parser, run_cases

SOURCES = ("folder", "parquet", "shards")
HEAP = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
IMAGES, QUICK_IMAGES = 2000, 80
EARLY, LATE = 500, 5000  # batches
QUICK_EARLY, QUICK_LATE = 2, 4


def anonymous_bytes(process: int | str = "self") -> int:
    """Return the anonymous memory of a process and of its children, bytes."""
    folder = Path(f"/proc/{process}")
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
        children = [each.read_text().split() for each in folder.glob("task/*/children")]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    own = next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))
    return own + sum(anonymous_bytes(child) for each in children for child in each)


def measure(case: Case, started: float) -> Row:
    """Train and look at the memory twice."""
    from minimagen import Imagen
    from minimagen.data.open import load_dataset
    from minimagen.storage.directory import read_parameters
    from minimagen.training.plan import make_plan
    from minimagen.training.processes.alone import Processes

    config, training, data = read_parameters(ROOT / "parameters" / "testing")
    training = training.for_learners(len(config.stages)).replace(num_workers=case["workers"])
    found, begun = {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = WRITERS[case["source"]](Path(folder), max(config.image_sizes[-1]), case["images"])
        streaming = case["source"] == "shards"
        dataset = load_dataset(path, config.image_sizes[-1], streaming=streaming)
        plan = make_plan(Imagen(config), dataset, training, data, [0], Processes())
        trainer = plan.trainer(0, plan.imagen.stages[0], case["late"])
        for batch in plan.batches(0, 0, case["late"]):
            trainer.train_step(batch)
            for name in ("early", "late"):
                if trainer.step == case[name]:
                    found[f"{name}_bytes"] = anonymous_bytes()
    growth = found["late_bytes"] / found["early_bytes"]
    return found | {"growth": growth, "seconds": time.perf_counter() - begun}


def cases(
    quick: bool, sources: Sequence[str] = SOURCES, workers: Sequence[int] = (0, 2)
) -> Iterator[Case]:
    """Yield all cases."""
    common = {
        "images": QUICK_IMAGES if quick else IMAGES,
        "early": QUICK_EARLY if quick else EARLY,
        "late": QUICK_LATE if quick else LATE,
    }
    for source in sources:
        for number in workers:
            for environment in (HEAP, {}):
                yield {"source": source, "workers": number, "environment": environment} | common


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--sources", nargs="+", default=SOURCES, choices=SOURCES)
    parser.add_argument("--workers", nargs="+", type=int, default=(0, 2))
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    asked = cases(arguments.quick, arguments.sources, arguments.workers)
    return run_cases("benchmarks.memory", asked, measure, arguments)


if __name__ == "__main__":
    main()
