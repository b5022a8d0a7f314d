"""Do training and sampling leave each other room on the same cores?

    python -m benchmarks.beside

The base of the demo is trained as ``train.py --MINUTES`` does it, and the bundled emoji are sampled
in batches of 16 as ``inference.py`` does it: each alone, then sampling beside the training. Rates
are counted over the same time. Run nothing else on the machine meanwhile.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measuring import ROOT, Case, Row, answer, build_parser, run_cases
from minimagen.cli.running import ENVIRONMENT
from minimagen.cli.threads import use_free_cores

SECONDS, QUICK_SECONDS = 120, 2
MINUTES = 60.0  # of the training, which is ended before
WARM = 3  # steps or batches that are not counted
STARTS_WITHIN = 300  # seconds
Done = Callable[[], None]
"""Called after each step or batch."""


def train(case: Case, done: Done) -> None:
    """Train the first stage of a preset without end, with as many threads as cores are free."""
    from minimagen import Imagen
    from minimagen.config.training import UNKNOWN
    from minimagen.data.open import load_dataset
    from minimagen.storage.directory import read_parameters
    from minimagen.training.plan import make_plan
    from minimagen.training.processes.alone import Processes

    config, training, data = read_parameters(ROOT / case["preset"])
    training = training.for_learners(len(config.stages)).replace(steps=None, minutes=MINUTES)
    dataset = load_dataset("shapes", config.image_sizes[-1])
    plan = make_plan(Imagen(config), dataset, training, data, [0], Processes())
    trainer = plan.trainer(0, plan.imagen.stages[0], UNKNOWN)
    clock, look = plan.clock(plan.seconds(0), time.monotonic()), 0
    for batch in plan.batches(0, 0, UNKNOWN):
        if trainer.step >= look or clock.cores_changed():
            revision, look = clock.revise(trainer.step)
            trainer.follow(revision)
        trainer.train_step(batch)
        done()


def sample(case: Case, done: Done) -> None:
    """Sample batches without end."""
    use_free_cores()  # before torch is imported
    from minimagen import Imagen

    imagen, count = Imagen.from_directory(ROOT / case["directory"]).eval(), case["batch"]
    while True:
        for _ in imagen.sample_batches(["a red apple"] * count, imagen.samplings(), range(count)):
            done()


WORK = {"train": train, "sample": sample}


def measure(case: Case, started: float) -> Row:
    """Return the rates of both alone and together, per second."""
    del started
    alone = {name: rates([name], case)[name] for name in WORK}
    beside = rates(list(WORK), case)
    return {
        "alone": alone,
        "beside": beside,
        "kept": {name: beside[name] / alone[name] for name in WORK},
    }


def rates(names: Sequence[str], case: Case) -> dict[str, float]:
    """Start what is named, one after the other, and count when all are under way."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        files = {name: Path(folder) / name for name in names}
        for name, file in files.items():
            running.enter_context(working(name, case, file))
        begun = time.time()
        time.sleep(case["seconds"])
        ended = time.time()
        return {name: rate(_times(file), begun, ended) for name, file in files.items()}


@contextmanager
def working(name: str, case: Case, file: Path) -> Iterator[None]:
    """Let a process work; it writes to ``file`` when each step or batch was done."""
    command = [sys.executable, "-m", "benchmarks.beside", "--work", name, "--file", str(file)]
    command += ["--quick"] * (case["seconds"] == QUICK_SECONDS)
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=sys.stderr)
    try:
        until = time.monotonic() + STARTS_WITHIN
        while len(_times(file)) < WARM:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"benchmarks.beside: {name} did not start")
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def rate(times: Iterable[float], begun: float, ended: float) -> float:
    """Return how many of the ``times`` a second lie after ``begun`` and not after ``ended``."""
    return sum(begun < each <= ended for each in times) / (ended - begun)


def _times(file: Path) -> list[float]:
    if not file.is_file():
        return []
    return [float(line) for line in file.read_text("utf-8").splitlines()]


def work(name: str, case: Case, file: Path) -> None:
    """Do one of both in this process, until it is killed."""
    with file.open("a", encoding="utf-8") as log:

        def done() -> None:
            log.write(f"{time.time()!r}\n")
            log.flush()

        WORK[name](case, done)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--work", choices=tuple(WORK), help="for the benchmark's own processes")
    parser.add_argument("--file", type=Path, help="of the times, likewise")
    arguments = parser.parse_args(argv)
    case: Case = {"preset": "parameters", "directory": "pretrained/emoji", "batch": 16}
    case["seconds"] = SECONDS
    if arguments.quick:
        case |= {"preset": "parameters/testing", "directory": "tests/golden/trained", "batch": 2}
        case["seconds"] = QUICK_SECONDS
    if arguments.work:
        work(arguments.work, case, arguments.file)
        return []
    if answer(arguments, measure):
        return []
    return run_cases("benchmarks.beside", [case], measure, arguments)


if __name__ == "__main__":
    main()
