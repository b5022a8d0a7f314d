"""``python -m minimagen export``: a training directory -> a folder to publish."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from minimagen.cli import options
from minimagen.cli.arguments import Option, Parser
from minimagen.cli.next_commands import typed
from minimagen.cli.running import run
from minimagen.config import TrainingConfig
from minimagen.config.data import title_of
from minimagen.errors import UserError
from minimagen.storage.card import NO_DATA, Facts
from minimagen.storage.directory import (
    Choices,
    TrainingDirectory,
    new_output,
    read_imagen_config,
    read_parameter_values,
)
from minimagen.storage.files import read_lines

OPTIONS = {
    "what to export": (
        options.WEIGHTS,
        Option("PUSH", "p", "Repository of the Hugging Face hub to upload it to, owner/name; a new "
               "one is private unless --PUBLIC is given, another stays as it is", shown="none"),
        Option("PUBLIC", "pu", "With --PUSH: for all to see; a private repository is refused then",
               bool),
    )
}  # fmt: skip
EXAMPLES = """  python -m minimagen export training_20261120_220000 my_model
  python -m minimagen export training_20261120_220000 my_model --PUSH me/my_model
  python -m minimagen export training_20261120_220000 my_model --WEIGHTS best"""


def main(argv: Sequence[str]) -> int:
    """Write weights, configuration and a card; return the exit code."""
    arguments = Parser(
        "python -m minimagen export", __doc__ or "", EXAMPLES, OPTIONS,
        DIR="training directory, or owner/name@revision of the hub",
        OUT="folder to write, new or empty",
    ).parse(options.without_flag(argv))  # fmt: skip
    if arguments.PUSH is not None and arguments.PUSH.count("/") != 1:
        raise UserError(f"--PUSH {arguments.PUSH} must be owner/name")
    if arguments.PUBLIC and arguments.PUSH is None:
        raise UserError("--PUBLIC belongs to --PUSH: give that too")
    directory = TrainingDirectory.open(arguments.dir)
    facts, own = facts_of(directory, arguments.WEIGHTS), directory.path / "README.md"
    from minimagen.imagen import Imagen

    new_output(arguments.out, "", "OUT")  # it is refused before anything is loaded
    imagen = Imagen.from_directory(directory.path, weights=arguments.WEIGHTS)
    name = arguments.PUSH or Path(arguments.out).resolve().name
    card = own.read_text("utf-8") if own.is_file() else imagen.card(name, facts)
    out = imagen.save_pretrained(arguments.out, card)
    print(f"{out}: weights, parameters and README.md; read it before you publish it")
    print(f"generate with it: {typed('inference', '-d', str(out), '-c', facts.caption)}")
    if arguments.PUSH is not None:
        private = False if arguments.PUBLIC else None
        try:
            print(imagen.push_to_hub(arguments.PUSH, private=private, readme=card))
        except UserError:
            hidden = [] if arguments.PUBLIC else ["--private"]
            later = shlex.join(["hf", "upload", arguments.PUSH, str(out), *hidden])
            print(f"push it later: {later}")
            raise
    return 0


def facts_of(directory: TrainingDirectory, weights: Choices = "final") -> Facts:
    """Return what a training directory says of its data, training and the figures of weights."""
    from minimagen.storage.figures import figures_text, read_record

    values = read_parameter_values(directory.parameters)
    captions = directory.sample_captions
    first = [line for line in read_lines(captions) if line.strip()] if captions.is_file() else []
    return Facts(
        caption=first[0].strip() if first else "a caption",
        data=_data(values.get("data")),
        training=_training(directory, values.get("training")),
        figures=figures_text(directory, read_record(directory.path), weights),
    )


def _data(values: dict[str, Any] | None) -> str:
    if values is None:
        return NO_DATA
    return (
        f"`{title_of(str(values.get('dataset')))}`, captions from `{values.get('caption_column')}`."
    )


def _training(directory: TrainingDirectory, values: dict[str, Any] | None) -> str:
    if values is None:
        return NO_DATA
    from minimagen.evaluation.history import read_history

    imagen = read_imagen_config(directory.parameters)
    training = TrainingConfig.read(values, "training.json").for_learners(len(imagen.learner_names))
    steps = read_history(directory).steps
    done = [
        f"{steps[title]:,} steps of {training.batch_size_of(i)} images for {title}"
        for i, title in enumerate(map(imagen.title, range(len(imagen.learner_names))))
        if title in steps
    ]
    return f"{', '.join(done)}." if done else NO_DATA


entry = partial(run, main)
