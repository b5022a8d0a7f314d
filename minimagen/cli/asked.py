"""What one call of ``inference.py`` asks for: kept beside its images, to go on with it."""

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from minimagen.arguments import Options
from minimagen.checked import Config, per_stage
from minimagen.cli.given import GivenImage
from minimagen.errors import UserError, first_line
from minimagen.generating import Edit, Request
from minimagen.storage.directory import TrainingDirectory, read_imagen_config
from minimagen.storage.files import read_json, write_json
from minimagen.storage.image_files import ImageFolder, contact_sheet
from minimagen.storage.metadata import (
    Axis,
    Generation,
    Given,
    GivenAs,
    Place,
    Whole,
    read_generation,
    save_png,
)
from minimagen.storage.model_hash import model_hash

REQUEST, GIVEN = "request.json", "given.safetensors"
"""What an output directory was asked for, and the image that was given, for ``--CONTINUE``."""


class Sheet(Config):
    """A sheet of all images, written once they are done."""

    labels: tuple[str, ...]
    """One below each image."""
    columns: int
    """Images side by side."""
    axes: tuple[Axis, ...] = ()
    """The settings that change, as they were typed; earlier versions did not keep them."""

    def write(self, folder: ImageFolder, metadata: bool = True) -> Path:
        """Write ``sweep.png``, with ``metadata`` how it was made; return its path."""
        paths = [folder.images / f"image_{i}.png" for i in range(len(self.labels))]
        images = [Image.open(path).convert("RGB") for path in paths]
        made = read_generation(paths[0]) if metadata and self.axes else None
        if made is not None:
            made = made.replace(whole=Whole(kind="sweep", texts=(made.text,), sweep=self.axes))
        sheet = contact_sheet(self.labels, [images], self.columns)
        save_png(folder.path / "sweep.png", sheet, made)
        return folder.path / "sweep.png"


class Asked(Config):
    """All that a run of ``inference.py`` was asked for."""

    directory: str
    """The training directory."""
    model: str
    """SHA-256 of the weights' tensors."""
    weights: tuple[str | int, ...]
    """Which averaged weights, of each stage."""
    batch_size: int
    """Images sampled at once."""
    precision: str
    """What the networks compute in: auto, fp32 or bf16."""
    best_of: int = 1
    """Candidates of each image."""
    clip: str | None = None
    """Training directory of the CLIP that chooses among them."""
    metadata: bool = True
    """Whether each PNG says how it was made."""
    images: tuple[dict[str, Any], ...]
    """Every candidate: text, seed, settings of the stages, negative caption, aspect ratio."""
    place: Place | None = None
    """Where in its batch the only image was, if it is made again."""
    edit: dict[str, Any] | None = None
    """What is done to the image that was given, if one was; its pixels are in a file beside."""
    given: dict[GivenAs, Given] = {}
    """The files of that image and its mask."""
    sheet: Sheet | None = None
    """Of a sweep."""

    @classmethod
    def of(
        cls,
        arguments: argparse.Namespace,
        directory: TrainingDirectory,
        requests: Sequence[Request],
        given: Mapping[GivenAs, GivenImage],
        made: Generation | None = None,
        edit: Edit | None = None,
        sheet: Sheet | None = None,
    ) -> "Asked":
        """Return what was typed.

        Args:
            arguments: What was typed.
            directory: Where the weights are.
            requests: Every candidate.
            given: The files of what is edited.
            made: How the image was made that is made again.
            edit: What is done to the given image.
            sheet: Of a sweep.
        """
        stages = read_imagen_config(directory.parameters).stages
        weights = per_stage("`weights`", arguments.WEIGHTS, len(stages))
        precision = arguments.PRECISION or (made.precision if made else "auto")
        typed = arguments.BATCH_SIZE != Options.batch_size
        return cls(
            directory=str(directory),
            model=model_hash(directory, weights),
            weights=tuple(weights),
            batch_size=arguments.BATCH_SIZE,
            precision=precision,
            best_of=arguments.BEST_OF,
            clip=None if arguments.CLIP is None else str(arguments.CLIP),
            metadata=not arguments.NO_METADATA,
            images=tuple(request.values() for request in requests),
            place=made.batch if made and len(requests) == 1 and not typed else None,
            edit=None if edit is None else edit.settings,
            given={name: image.kept for name, image in given.items()},
            sheet=sheet,
        )

    @contextmanager
    def saved(self, output: Path, edit: Edit | None = None) -> Iterator[None]:
        """Write it into a new output directory, and the image that was given.

        Where a stage refuses it before there is an image, it is taken back.
        """
        if edit is not None:
            output.mkdir(parents=True, exist_ok=True)
            save_file(edit.images, output / GIVEN)
        write_json(output / REQUEST, self)
        try:
            yield
        except UserError:
            if {path.name for path in output.iterdir()} <= {REQUEST, GIVEN}:
                shutil.rmtree(output)  # there is nothing to go on with
            raise

    def edit_in(self, output: Path) -> Edit | None:
        """Return what is done to the image that was given, if one was."""
        if self.edit is None:
            return None
        try:
            values: dict[str, Any] = {**self.edit, **load_file(output / GIVEN)}
            return Edit(**values)
        except (OSError, SafetensorError, TypeError) as error:
            raise UserError(
                f"{output / GIVEN} is missing or damaged ({first_line(error)}); sample anew "
                "without --CONTINUE"
            ) from None

    @classmethod
    def saved_in(cls, output: Path) -> "Asked":
        """Return what an output directory was asked for; a UserError where it does not say."""
        path = output / REQUEST
        if not path.is_file():
            raise UserError(
                f"--CONTINUE {output} has no {REQUEST}; give the output directory of a stopped run"
            )
        return cls.read(read_json(path), str(path))
