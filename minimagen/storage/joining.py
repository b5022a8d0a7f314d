"""One training directory for several jobs, each of which trains other learners.

The first one makes it, whole, beside its place and renames it there; the others compare their
parameters with its. Each claims its learners by a file that only one job can make.
"""

import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minimagen.config import TrainingConfig
from minimagen.config.training import Revision
from minimagen.errors import UserError
from minimagen.storage.checkpoint import checkpoints
from minimagen.storage.directory import (
    Parameters,
    TrainingDirectory,
    read_parameters,
    stamped,
    write_parameters,
)
from minimagen.storage.files import locked, write_json

TAKEN = "`output` {} exists and is not empty; choose another name"
Filling = Callable[[TrainingDirectory], None]
LENGTHS = ("steps", "minutes", "revisions")
LONGEST_WAIT = 10.0  # s; another job joins in a fraction of that


def start_directory(
    output: str | Path | None,
    parameters: Parameters,
    chosen: Sequence[int],
    joinable: bool = True,
    also: Filling | None = None,
) -> TrainingDirectory:
    """Make a training directory with its parameters, or join one of the same cascade.

    Args:
        output: Where; ``training_<local time>`` here by default.
        parameters: With one number of steps, or of minutes, for each learner.
        chosen: What this job trains.
        joinable: Whether it may join: it also must not train all, nor what another job has.
        also: Puts what else belongs there into a new directory before it appears.

    Raises:
        UserError: If ``output`` is not empty and cannot be joined, or cannot be made.
    """
    path = stamped("training") if output is None else Path(output)
    new = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _fill(new, parameters, chosen, also)
        new.rename(path)  # fails where there is something
    except OSError as error:
        if path.is_dir() and not any(path.iterdir()):  # empty, and not to be replaced: a mount
            _fill(path, parameters, chosen, also)
        elif path.exists():
            if not joinable or len(chosen) == len(parameters.imagen.learner_names):
                raise UserError(TAKEN.format(path)) from None
            _join(TrainingDirectory(path), parameters, chosen)
        else:
            raise UserError(f"cannot make {path}: {error}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return TrainingDirectory(path)


def _fill(path: Path, parameters: Parameters, chosen: Sequence[int], also: Filling | None) -> None:
    directory = TrainingDirectory(path)
    names = [parameters.imagen.learner_names[i] for i in chosen]
    directory.make()
    write_parameters(directory.parameters, parameters)
    _claim(directory, names)
    if also is not None:
        also(directory)


def _join(directory: TrainingDirectory, parameters: Parameters, chosen: Sequence[int]) -> None:
    """Take part in a directory that is already there."""
    taken = TAKEN.format(directory)
    if not (directory.parameters / "data.json").is_file():
        raise UserError(f"{taken} (it is not a training directory)")
    with locked(directory.tmp / ".joining", LONGEST_WAIT):
        existing = read_parameters(directory.parameters)
        if different := _differences(existing, parameters):
            raise UserError(f"{taken} (its parameters differ: {', '.join(different)})")
        names = [parameters.imagen.learner_names[i] for i in chosen]
        if not _claim(directory, names):
            raise UserError(
                f"{taken} (it already has {', '.join(names)}; to go on with it "
                f"`resume` {directory})"
            )
        lengths = {}
        for name in LENGTHS:
            theirs, ours = (getattr(p.training, name) for p in (existing, parameters))
            if isinstance(ours, tuple) and ours:  # a run writes one for each stage
                lengths[name] = _each(theirs, ours, chosen)
        _write_training(directory, existing.training.replace(**lengths))


def record_revisions(directory: TrainingDirectory, i: int, revisions: Sequence[Revision]) -> None:
    """Write the revisions of learner ``i`` beside those of others, which other jobs may have.

    Raises:
        UserError: If they cannot be written.
    """
    with locked(directory.tmp / ".joining", LONGEST_WAIT):
        training = read_parameters(directory.parameters).training
        written = list(training.revisions)
        written[i] = tuple(revisions)
        _write_training(directory, training.replace(revisions=written))


def write_again(
    directory: TrainingDirectory, parameters: Parameters, chosen: Sequence[int], beside: bool
) -> None:
    """Write the parameters of a resumed run, of other learners those that their jobs wrote.

    Args:
        directory: Of the run.
        parameters: Its own.
        chosen: What it trains.
        beside: Whether another job trains there now.

    Raises:
        UserError: That job follows the clock and this one does not, or they cannot be written.
    """
    with locked(directory.tmp / ".joining", LONGEST_WAIT):
        theirs, ours = read_parameters(directory.parameters).training, parameters.training
        if beside and theirs.minutes is not None and ours.minutes is None:
            raise UserError(
                f"another process trains in {directory} by `minutes`: give `minutes` too, or wait "
                "for its end"
            )
        if theirs.revisions and ours.revisions:
            both = {name: (getattr(theirs, name), getattr(ours, name)) for name in LENGTHS[1:]}
            ours = ours.replace(**{name: _each(*pair, chosen) for name, pair in both.items()})
        write_parameters(directory.parameters, parameters._replace(training=ours))


def _each(theirs: Sequence[Any], ours: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
    """Return the values of all learners: of those that are chosen ours."""
    return [(ours if i in chosen else theirs)[i] for i in range(len(ours))]


def _write_training(directory: TrainingDirectory, training: TrainingConfig) -> None:
    write_json(directory.parameters / "training.json", training)


def _claim(directory: TrainingDirectory, names: Sequence[str]) -> bool:
    """Mark learners as trained by this job; return False, unmarked, if another job has one."""
    claimed: list[Path] = []
    for name in names:
        claim = directory.claim(name)
        try:
            if _has_begun(directory, name):
                raise FileExistsError
            claim.touch(exist_ok=False)
        except FileExistsError:
            for path in claimed:
                path.unlink()
            return False
        claimed.append(claim)
    return True


def _has_begun(directory: TrainingDirectory, name: str) -> bool:
    """Return whether a learner has weights, not only those that it is to start from."""
    prefix = directory.checkpoint_prefix(name)
    if kept := checkpoints(directory.tmp, prefix):
        return int(kept[-1].stem.removeprefix(prefix)) > 0
    return directory.weights(name).is_file()


def _differences(one: Parameters, other: Parameters) -> list[str]:
    """Return the keys whose values differ, lengths left aside if they are of one kind."""
    if (one.training.steps is None) != (other.training.steps is None):
        return ["training.steps"]
    same = {"steps": 1, "minutes": None, "revisions": ()}
    a, b = (
        Parameters(p.imagen.unmeasured(), p.training.replace(**same), p.data) for p in (one, other)
    )
    return [
        f"{section}.{key}"
        for section, x, y in zip(a._fields, a, b, strict=True)
        for (key, its), (_, others) in zip(x, y, strict=True)
        if its != others
    ]
