"""Images that ``inference.py`` makes as a whole: films, interpolations, sheets of the stages."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimagen.cli import options
from minimagen.cli.captions import Caption
from minimagen.cli.editing import swept_options
from minimagen.cli.next_commands import typed
from minimagen.errors import Stopped, UserError

if TYPE_CHECKING:
    from PIL import Image

    from minimagen.imagen import Imagen
    from minimagen.storage.metadata import Generation, WholeKind

KINDS: "tuple[WholeKind, ...]" = ("interpolate", "film", "stages_sheet")
FIXED = {"CAPTIONS", "IMAGES_PER_CAPTION", "STOP_STAGE"}  # of what is made again


def kind_of(arguments: argparse.Namespace) -> "WholeKind | None":
    """Return what is made as a whole, if something is."""
    return next((kind for kind in KINDS if getattr(arguments, kind.upper())), None)


def belong_together(
    arguments: argparse.Namespace,
    imagen: "Imagen",
    captions: Sequence[Caption],
    output: Path,
    model: str,
) -> int:
    """Write the images of ``--INTERPOLATE``, ``--FILM`` or ``--STAGES_SHEET``.

    A first Ctrl-C is obeyed after the sampling step that it meets; later, everything is written.
    Of a film the frames up to there are kept, of an interpolation between captions its most even
    finished round.

    Args:
        arguments: What was typed, with a seed and the weights of each stage.
        imagen: The cascade.
        captions: One or two, as ``editing.check_captions`` wants them.
        output: The directory to write.
        model: Hash of the weights, kept in the files.

    Returns:
        The exit code.
    """
    from minimagen.training.interruption import StopSignals

    stopped = False

    def stop(*_: Any) -> bool:
        nonlocal stopped
        stopped = signals.received is not None
        return stopped

    with StopSignals() as signals:
        settings = _settings(arguments) | {"callback": stop}
        try:
            written = _write(arguments, imagen, [each.text for each in captions], output, model,
                             settings)  # fmt: skip
        except Stopped:
            written = []
    for path in written:
        print(path)
    if signals.received is None or not stopped:
        return 0
    print(f"interrupted: {'what was done' if written else 'nothing'} is kept")
    if written and not arguments.NO_METADATA:
        given = arguments.TRAINING_DIRECTORY
        directory = [] if given is None else ["-d", str(given)]
        print(f"make the whole: {typed('inference', '--FROM_IMAGE', str(written[0]), *directory)}")
    return 128 + signals.received


def _write(
    arguments: argparse.Namespace,
    imagen: "Imagen",
    texts: list[str],
    output: Path,
    model: str,
    settings: dict[str, Any],
) -> list[Path]:
    """Sample, and write the files; return their paths, a PNG first.

    Raises:
        Stopped: Before there was anything to write.
    """
    from minimagen.editing import by_stage, film
    from minimagen.storage.animation import save_animations, save_strip
    from minimagen.storage.image_files import contact_sheet
    from minimagen.storage.metadata import save_png

    if arguments.STAGES_SHEET:
        stages = by_stage(imagen, texts, seed=arguments.SEED, **settings)
        made = _made(arguments, imagen, texts, model, stages[-1][0])
        save_png(output / "stages.png", contact_sheet(texts, stages), made)
        return [output / "stages.png"]
    if arguments.INTERPOLATE:
        frames, name = _between(arguments, imagen, texts, settings), "interpolation"
    else:
        frames = [f.image for f in film(imagen, texts[0], seed=arguments.SEED, **settings)]
        name = "film"
    made = _made(arguments, imagen, texts, model, frames[-1])
    strip = save_strip(output, name, frames, made)
    return [strip, *save_animations(output, name, frames, made)]


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``Imagen.sample`` that were typed."""
    from minimagen.device import resolve_device

    settings: dict[str, Any] = {
        "precision": arguments.PRECISION or "auto",
        "batch_size": arguments.BATCH_SIZE,
        "aspect_ratio": arguments.ASPECT_RATIO,
        "device": resolve_device(arguments.DEVICE) if arguments.OFFLOAD else None,
        **{k: v for k, v in options.sampling_changes(arguments).items() if v is not None},
    }
    negative = {} if arguments.NEGATIVE is None else {"negative": arguments.NEGATIVE}
    return settings | negative


def _between(
    arguments: argparse.Namespace, imagen: "Imagen", texts: list[str], settings: dict[str, Any]
) -> "list[Image.Image]":
    from minimagen.editing import interpolate_captions, interpolate_seeds

    count, seeds, seed = arguments.FRAMES, arguments.SEEDS, arguments.SEED
    if seeds is not None:
        return interpolate_seeds(imagen, texts[0], seeds[0], seeds[1], count, **settings)
    return interpolate_captions(imagen, texts[0], texts[1], count, seed=seed, **settings)


def _made(
    arguments: argparse.Namespace,
    imagen: "Imagen",
    texts: list[str],
    model: str,
    image: "Image.Image",
) -> "Generation | None":
    """Return how a whole was made, ``image`` its last one; None with ``--NO_METADATA``."""
    from minimagen.generating import Request, made_together
    from minimagen.storage.metadata import Whole

    kind = kind_of(arguments)
    if arguments.NO_METADATA or kind is None:
        return None
    samplings = imagen.samplings(**options.sampling_changes(arguments))
    seeds = arguments.SEEDS or (arguments.SEED,)
    request = Request(
        texts[0], seeds[0], tuple(samplings), arguments.NEGATIVE, arguments.ASPECT_RATIO
    )
    whole = Whole(
        kind=kind, texts=tuple(texts), seeds=arguments.SEEDS or (), frames=arguments.FRAMES
    )
    return made_together(
        whole, request, image, model, tuple(arguments.WEIGHTS),
        precision=arguments.PRECISION or "auto", batch_size=arguments.BATCH_SIZE,
    )  # fmt: skip


def whole_again(
    arguments: argparse.Namespace, made: "Generation", typed: set[str]
) -> list[Caption]:
    """Set the options that the strip or sheet of ``--FROM_IMAGE`` was made by.

    Args:
        arguments: They are changed, but for those that were ``typed``.
        made: How it was made.
        typed: The names of the options that were given.

    Returns:
        Its captions; none where ``made`` is of one image.

    Raises:
        UserError: It has no use for what was typed.
    """
    whole = made.whole
    if whole is None:
        return []
    own_seeds = {"SEED"} if whole.seeds else set[str]()
    others = sorted(typed & (FIXED | own_seeds | swept_options(whole.sweep)))
    if others:
        raise UserError(
            f"{arguments.FROM_IMAGE} is made again as a whole; leave out --{', --'.join(others)}"
        )
    own: dict[str, Any] = {
        whole.kind.upper(): whole.sweep or True,
        "SEED": None if whole.seeds else made.seed,
        "SEEDS": whole.seeds or None,
        "FRAMES": whole.frames,
        "NEGATIVE": made.negative,
        "ASPECT_RATIO": made.aspect_ratio,
        "PRECISION": made.precision,
        "BATCH_SIZE": made.batch.size,
    }
    for option in options.SAMPLING:
        values = [stage.get(str(option.path[-1])) for stage in made.stages]
        if any(value is not None for value in values):
            own[option.name] = values
    for name in own.keys() - typed:
        setattr(arguments, name, own[name])
    return [*map(Caption, whole.texts)]
