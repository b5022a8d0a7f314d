"""Sampling as it was asked for: requests, batches, progress, what is written."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from minimagen.arguments import seeds_of
from minimagen.checked import Config, per_stage
from minimagen.cli import options
from minimagen.cli.asked import Asked
from minimagen.cli.captions import Caption, read_captions
from minimagen.cli.next_commands import typed
from minimagen.device import resolve_device
from minimagen.draws import derive_seed
from minimagen.errors import UserError
from minimagen.evaluation.choice import independent_clip, similarity
from minimagen.generating import Edit, Generator, Request, batches_of, encoded, request_of
from minimagen.imagen import Imagen
from minimagen.progress import tqdm
from minimagen.storage.directory import new_output
from minimagen.storage.image_files import ImageFolder
from minimagen.storage.metadata import Generation
from minimagen.text.clip import Clip
from minimagen.training.interruption import Interrupted, StopSignals

BAR = "{percentage:3.0f}%|{bar}| of {total_fmt} images [{elapsed}<{remaining}{postfix}]"


def requests_of(
    arguments: argparse.Namespace, imagen: Imagen, captions: Sequence[Caption]
) -> list[Request]:
    """Return a request for every candidate: image i of all has the seed ``SEED + i``."""
    (seed,) = seeds_of(arguments.SEED, None, 1)
    numbers, requests = count(), []
    print(f"seed: {seed}" if arguments.SEEDS is None else f"seeds: {len(arguments.SEEDS)}")
    for caption in captions:
        request = _request(arguments, imagen, caption)
        own = caption.own.get("IMAGES_PER_CAPTION", arguments.IMAGES_PER_CAPTION)
        seeds = _seeds(arguments, caption.own, own * arguments.BEST_OF)
        for each in range(own * arguments.BEST_OF) if seeds is None else seeds:
            number = next(numbers)
            requests.append(request(seed + number if seeds is None else each))
    return requests


def _seeds(
    arguments: argparse.Namespace, own: Mapping[str, Any], candidates: int
) -> Sequence[int] | None:
    """Return the seeds that a caption's images are given; None where they are counted."""
    if "SEED" in own:
        return range(own["SEED"], own["SEED"] + candidates)
    if arguments.SEEDS is None:
        return None
    return [
        derive_seed(seed, "candidate", i) % 2**32 if i else seed  # as a fresh one: no other's
        for seed in arguments.SEEDS
        for i in range(arguments.BEST_OF)
    ]


def _request(arguments: argparse.Namespace, imagen: Imagen, caption: Caption) -> Any:
    """Return a function from a seed to the request of a caption."""
    typed = {option.name: getattr(arguments, option.name) for option in options.SAMPLING}
    settings = argparse.Namespace(**{**typed, **caption.own})
    first = 0 if arguments.UPSCALE is None else arguments.START_STAGE
    changes = options.sampling_changes(settings)
    samplings = _until(imagen.samplings(**changes)[first:], arguments, first)
    negative = caption.own.get("NEGATIVE", arguments.NEGATIVE)
    ratio = caption.own.get("ASPECT_RATIO", arguments.ASPECT_RATIO)
    return lambda seed: Request(caption.text, seed, samplings, negative, ratio)


def _until(
    samplings: Sequence[Any], arguments: argparse.Namespace, first: int = 0
) -> tuple[Any, ...]:
    """Return the settings, those of stage ``first`` in front, up to ``--STOP_STAGE``."""
    stop, last = arguments.STOP_STAGE, first + len(samplings) - 1
    if stop is None:
        return tuple(samplings)
    if not first <= stop <= last:
        edge = f"last stage is {last}" if stop > last else f"first stage is {first}"
        raise UserError(f"--STOP_STAGE {stop}: the {edge}")
    return tuple(samplings[: stop + 1 - first])


def requests_again(
    arguments: argparse.Namespace, imagen: Imagen, made: Generation
) -> list[Request]:
    """Return the requests of the image that was made so, with what else is typed."""
    if made.first + len(made.stages) > len(imagen.stages):
        raise UserError(f"the image was made by {len(made.stages)} stages, which are not here")
    values, stages = made.model_dump(mode="json"), imagen.stages[made.first :]
    for name, value in options.sampling_changes(arguments).items():
        each = per_stage(name, value, len(imagen.stages))[made.first :]
        having = [hasattr(stage.settings(), name) for stage in stages[: len(made.stages)]]
        if value is not None and not any(having):
            raise UserError(f"`{name}` is no setting of the stages that made the image")
        for stage, has, own in zip(values["stages"], having, each, strict=False):
            if own is not None and has:
                stage[name] = own
    samplings = request_of(imagen, values, made.first).samplings
    text = made.text
    if arguments.CAPTIONS is not None:
        captions = read_captions(arguments.CAPTIONS)
        if len(captions) > 1 or captions[0].own:
            raise UserError("`captions` with an image to sample again: give one caption, as text")
        (text,) = (caption.text for caption in captions)
    seed = made.seed if arguments.SEED is None else arguments.SEED
    print(f"seed: {seed}")
    return [
        Request(
            text,
            seed + i,
            _until(samplings, arguments, made.first),
            made.negative if arguments.NEGATIVE is None else arguments.NEGATIVE,
            made.aspect_ratio if arguments.ASPECT_RATIO is None else arguments.ASPECT_RATIO,
        )
        for i in range(arguments.IMAGES_PER_CAPTION)
    ]


def write_images(
    arguments: argparse.Namespace,
    imagen: Imagen,
    asked: Asked,
    output: Path | None = None,
    edit: Edit | None = None,
) -> int:
    """Sample what was asked for and is not in ``output`` yet; return the exit code.

    Without ``output`` a new one is made; what is refused leaves none. Each batch is written as soon
    as it is done. A first Ctrl-C is obeyed after the sampling step that it meets,
    so what is written is whole.
    """
    device = resolve_device(arguments.DEVICE)
    if output is None and arguments.OUTPUT is not None:
        new_output(arguments.OUTPUT, "")  # it is refused at once
    first = edit.first if edit else 0
    requests = [request_of(imagen, values, first) for values in asked.images]
    imagen.text_encoder.to(device)
    clip = None
    if asked.clip is not None:
        clip = independent_clip(Path(asked.clip), imagen).to(device)
    text = encoded(imagen, requests)
    imagen.text_encoder = text  # the encoder's memory is free from here on
    ready: AbstractContextManager[None] = nullcontext()
    if output is None:
        output = new_output(arguments.OUTPUT, "generated_images")
        ready = asked.saved(output, edit)
    folder = ImageFolder(output, Path(asked.directory), asked.metadata)
    done = folder.written * asked.best_of
    with (
        StopSignals() as signals,
        tqdm(total=len(requests), initial=done, bar_format=BAR, mininterval=1.0, miniters=0) as bar,
    ):
        batch = _Batch(bar, first, signals)
        options_ = {
            "precision": asked.precision,
            "callback": batch.step_done,
            "device": device if arguments.OFFLOAD else None,
        }
        generator = Generator(imagen, text, asked.model, asked.weights, options_, edit, asked.given)
        group = []
        with ready, suppress(Interrupted), fitting_in_memory(device, batch_size=1):
            for image, generation in _candidates(generator, requests, asked, done, batch):
                group.append((image, generation))
                if len(group) == asked.best_of:
                    folder.write(*_nearest(group, clip))
                    group = []
    wanted = len(requests) // asked.best_of
    print_notes(imagen)
    _print_written(folder, wanted)
    if asked.sheet is not None and folder.written == wanted:
        print(f"sheet: {asked.sheet.write(folder, asked.metadata)}")
    return 128 + (signals.received or 0) if folder.written < wanted else 0


def _nearest(
    candidates: Sequence[tuple[Image.Image, Generation]], clip: Clip | None
) -> tuple[Image.Image, Generation]:
    """Return the candidate nearest to its caption as a CLIP sees them; the first without one.

    As in DALL-E (arXiv 2102.12092, section 2.6).
    """
    if clip is None:
        return candidates[0]
    images = [image for image, _ in candidates]
    return candidates[int(similarity(clip, candidates[0][1].text, images).argmax())]


class _Batch:
    """The batch that is sampled: its steps move the bar, and end after a signal."""

    def __init__(self, bar: tqdm, first: int, signals: StopSignals) -> None:
        self._bar, self._first, self._signals = bar, first, signals
        self._begun, self._new = 0, 0
        self._counts: list[int] = []

    def begin(self, samplings: Sequence[Config], begun: int, new: int) -> None:
        """Begin one: ``begun`` images are done, ``new`` of its images are wanted."""
        self._counts = [getattr(sampling, "timesteps", 1) for sampling in samplings]
        self._begun, self._new = begun, new

    def step_done(self, stage: int, step: int, steps: int, _: object) -> None:
        """Show where sampling is."""
        place = stage - self._first
        done = sum(self._counts[:place]) + self._counts[place] * (step + 1) / steps
        at = self._begun + self._new * done / sum(self._counts)
        self._bar.set_postfix_str(f"stage {stage}, step {step + 1} of {steps}", refresh=False)
        self._bar.update(max(0.0, at - self._bar.n))  # not back, where a batch is sampled in parts
        if self._signals.received:
            raise Interrupted(self._signals.received, "")


@contextmanager
def fitting_in_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    """Say what to do where the device has not enough memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        images = "one image" if batch_size == 1 else f"{batch_size} images at once"
        hint = "" if batch_size == 1 else "a smaller `batch_size`, or "
        raise UserError(
            f"{device} has not enough memory for {images}; give {hint}`offload` (what is written "
            "is whole)"
        ) from None


def _candidates(
    generator: Generator, requests: Sequence[Request], asked: Asked, done: int, sampled: _Batch
) -> Iterator[tuple[Image.Image, Generation]]:
    """Yield the candidates from number ``done`` on; the batches are those of an unstopped run."""
    if asked.place is not None:
        if done == 0:
            batch = [requests[0]] * asked.place.size
            sampled.begin(requests[0].samplings, 0, 1)
            yield generator.sample(batch, asked.place.tokens)[asked.place.index]
        return
    end = 0
    for batch in batches_of(requests, asked.batch_size):
        end += len(batch)
        if end > done:
            known = max(0, done - end + len(batch))
            sampled.begin(batch[0].samplings, end - len(batch) + known, len(batch) - known)
            yield from generator.sample(batch)[known:]


def print_notes(imagen: Imagen) -> None:
    """Print what text encoder and stages have to say of what was sampled."""
    for note in (*imagen.text_encoder.notes(), *(n for s in imagen.stages for n in s.notes())):
        print(note)


def _print_written(folder: ImageFolder, wanted: int) -> None:
    """Print how many images there are, and where; write the grid."""
    stopped = f"interrupted: {folder.written} of " if folder.written < wanted else ""
    print(f"{stopped}{wanted} image{'s' * (wanted != 1)}: {folder.images}")
    if stopped:
        command = typed("inference", "--CONTINUE", str(folder.path))
        print(f"sample the others: {command}")
    if folder.written:
        width, height = folder.size
        shown = f" (the first {folder.shown} images)" if folder.written > folder.shown else ""
        print(f"{width} x {height} px; grid{shown}: {folder.write_grid()}")
