"""What the page does, without the page: models, requests, images on disk, progress."""

import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from minimagen.device import resolve_device
from minimagen.editing import interpolate_captions
from minimagen.errors import Stopped, UserError
from minimagen.generating import Edit, Generator, Request, batches_of
from minimagen.imagen import Imagen
from minimagen.images import to_pil
from minimagen.storage.animation import save_animations, save_strip
from minimagen.storage.directory import TrainingDirectory, stamped
from minimagen.storage.image_files import ImageFolder, contact_sheet
from minimagen.storage.metadata import Generation, parameters_text, save_png
from minimagen.storage.model_hash import model_hash
from minimagen.text.encoded import EncodedCaptions

MOST = 64  # images, or cells of a sweep, at a time
LONGEST = 2000  # characters of a caption
PREVIEW = 256  # px


@dataclass(frozen=True)
class Progress:
    """Where sampling is.

    Attributes:
        text: Stage, step, time left.
        preview: The estimate of the first image.
    """

    text: str
    preview: Image.Image


@dataclass(frozen=True)
class Result:
    """What was sampled.

    Attributes:
        paths: PNG files with their parameters, as they were written.
        sheet: A contact sheet, where there is one.
        made: How each image was made.
        seed: Of the first one.
    """

    paths: list[Path]
    sheet: Path | None
    made: list[Generation]
    seed: int

    @property
    def parameters(self) -> str:
        """Return the parameters of the first image, as other programs read them."""
        return parameters_text(self.made[0]) if self.made else ""


@dataclass(frozen=True)
class Form:
    """What is filled in; texts of numbers have one for all stages, or one each, with commas."""

    model: str
    caption: str
    negative: str = ""
    seed: int | None = None
    count: int = 1
    steps: str = ""
    guidance: str = ""
    sampler: str = ""
    aug_level: str = ""

    def changes(self) -> dict[str, Any]:
        """Return the sampling settings that are filled in.

        Raises:
            UserError: A text is no number.
        """
        texts = {
            "timesteps": self.steps,
            "guidance_scale": self.guidance,
            "aug_level": self.aug_level,
        }
        changes = {name: numbers(name, text) for name, text in texts.items() if text.strip()}
        return changes | ({"sampler": self.sampler} if self.sampler else {})

    def checked(self) -> "Form":
        """Return the form; a UserError unless a caption is there, and not too much is asked for."""
        if not self.caption.strip():
            raise UserError("The caption is empty: write what the image should show.")
        for text in (self.caption, self.negative):
            if len(text) > LONGEST:
                raise UserError(f"A caption has {len(text)} characters; at most {LONGEST} fit.")
        if not 1 <= self.count <= MOST:
            raise UserError(f"The number of images is {self.count}; give 1 to {MOST}.")
        return self


def numbers(name: str, text: str) -> Any:
    """Return one number, or a list of them where there are commas."""
    try:
        values = [float(part) for part in text.split(",")]
        whole = [int(value) if value == int(value) else value for value in values]
    except (ValueError, OverflowError):  # no number; not a number, infinite
        raise UserError(f"{name} is {text!r}; give numbers such as 8 or 8,2") from None
    return whole[0] if len(whole) == 1 else whole


class Studio:
    """The models under one folder, one of them loaded, and what is sampled with it.

    Args:
        root: Where training directories are, and where images are written.
        bundled: Cascades that are always there.
        device: Where to sample.
    """

    def __init__(self, root: Path, bundled: list[Path], device: str = "auto") -> None:
        self.root, self._bundled = root, bundled
        self._device = resolve_device(device)
        self._loaded: tuple[str, Imagen, str] | None = None
        self._lock = threading.Lock()  # the queue of the page has one place, its API too

    def models(self) -> dict[str, Path]:
        """Return the trained cascades by name, the newest first."""
        found = [p for p in self.root.iterdir() if p.is_dir() and _is_model(p)]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return {path.name: path for path in [*found, *filter(_is_model, self._bundled)]}

    def runs(self) -> dict[str, Path]:
        """Return the training directories by name, the newest first, trained or not."""
        found = [p for p in self.root.iterdir() if (p / "parameters" / "imagen.json").is_file()]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return {path.name: path for path in found}

    def load(self, name: str) -> tuple[Imagen, str]:
        """Return a cascade and the hash of its weights; the one before is given up.

        Raises:
            UserError: There is no such model.
        """
        models = self.models()
        if name not in models:
            raise UserError(f"There is no model {name!r} under {self.root.name}: choose another.")
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            imagen = Imagen.from_directory(models[name]).to(self._device)
            digest = model_hash(TrainingDirectory(models[name]))
            self._loaded = name, imagen, digest
        return self._loaded[1:]

    def load_first(self) -> None:
        """Load the model that the page opens on, and its text encoder, in the background.

        The first image begins seconds sooner. What is wrong with it is said when it is used.
        """

        def load() -> None:
            with self._lock, contextlib.suppress(UserError):
                if self._loaded is None:
                    imagen, _ = self.load(next(iter(self.models())))
                    EncodedCaptions(imagen.text_encoder.to(self._device), [""])

        threading.Thread(target=load, daemon=True).start()

    def generate(self, form: Form, edit: Callable[[Imagen], Edit] | None = None) -> "Stream":
        """Sample images of a form, begun with an image where ``edit`` gives one."""
        form = form.checked()

        def work(report: Callable[[int, int, int, Tensor], bool]) -> Result:
            imagen, digest = self.load(form.model)
            given = edit(imagen) if edit else None
            first = given.first if given else 0
            samplings = tuple(imagen.samplings(**form.changes())[first:])
            seed = secrets.randbits(32) if form.seed is None else form.seed
            negative = form.negative.strip() or None
            caption = " ".join(form.caption.split())
            requests = [Request(caption, seed + i, samplings, negative) for i in range(form.count)]
            return self._sampled(imagen, digest, requests, report, given)

        return Stream(self, work)

    def sweep(self, form: Form, axes: dict[str, list[Any]]) -> "Stream":
        """Sample one image for each combination of values, with one seed, as a sheet."""
        form = form.checked()
        total = 1
        for values in axes.values():
            total *= len(values)
        if not 1 <= total <= MOST:
            raise UserError(f"The sweep has {total} images; give values for 1 to {MOST}.")

        def work(report: Callable[[int, int, int, Tensor], bool]) -> Result:
            from itertools import product

            imagen, digest = self.load(form.model)
            seed = secrets.randbits(32) if form.seed is None else form.seed
            cells = [dict(zip(axes, each, strict=True)) for each in product(*axes.values())]
            caption, negative = " ".join(form.caption.split()), form.negative.strip() or None
            requests = []
            for cell in cells:
                changes = form.changes() | {k: v for k, v in cell.items() if k != "seed"}
                own = tuple(imagen.samplings(**changes))
                requests.append(Request(caption, int(cell.get("seed", seed)), own, negative))
            result = self._sampled(imagen, digest, requests, report, None)
            labels = [", ".join(f"{k} {v}" for k, v in cell.items()) for cell in cells]
            sheet = result.paths[0].parents[1] / "sweep.png"
            images = [Image.open(path).convert("RGB") for path in result.paths]
            save_png(sheet, contact_sheet(labels, [images]))
            return Result(result.paths, sheet, result.made, seed)

        return Stream(self, work)

    def interpolate(self, form: Form, last: str, frames: int) -> "Stream":
        """Sample images from the form's caption to another one, with one seed, and an animation."""
        form, end = form.checked(), replace(form, caption=last).checked()

        def work(report: Callable[[int, int, int, Tensor], bool]) -> Result:
            imagen, _ = self.load(form.model)
            seed = secrets.randbits(32) if form.seed is None else form.seed
            images = interpolate_captions(
                imagen, form.caption, end.caption, frames, seed=seed, callback=report,
                progress=False, **form.changes(),
            )  # fmt: skip
            folder = stamped("generated_images", self.root)
            paths = [folder / f"frame_{i}.png" for i in range(frames)]
            for path, image in zip(paths, images, strict=True):
                save_png(path, image)
            animations = save_animations(folder, "interpolation", images)
            strip = save_strip(folder, "interpolation", images)
            return Result([*paths, *animations], strip, [], seed)

        return Stream(self, work)

    def _sampled(
        self,
        imagen: Imagen,
        digest: str,
        requests: list[Request],
        report: Callable[[int, int, int, Tensor], bool],
        edit: Edit | None,
    ) -> Result:
        """Sample batch by batch, each on disk as soon as it is done."""
        texts = [r.text for r in requests] + [r.negative for r in requests if r.negative]
        text = EncodedCaptions(imagen.text_encoder.to(self._device), texts)
        weights = ("final",) * len(imagen.stages)
        generator = Generator(imagen, text, digest, weights, {"callback": report}, edit)
        folder = ImageFolder(stamped("generated_images", self.root), Path(self._name()))
        paths, made = [], []
        for batch in batches_of(requests, MOST):
            for image, generation in generator.sample(batch):
                paths.append(folder.write(image, generation))
                made.append(generation)
        return Result(paths, folder.write_grid(), made, requests[0].seed)

    def _name(self) -> str:
        return self._loaded[0] if self._loaded else ""


class Stream:
    """Runs work in a thread; yields its progress and, at last, its result. Closing it stops it."""

    def __init__(
        self, studio: Studio, work: Callable[[Callable[[int, int, int, Tensor], bool]], Result]
    ) -> None:
        self._studio, self._work = studio, work
        self._stop = threading.Event()
        self._items: queue.Queue[Progress | Result | BaseException] = queue.Queue()
        self._started = time.monotonic()

    def __iter__(self) -> Iterator[Progress | Result]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            while True:
                item = self._items.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Result):
                    return
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        with self._studio._lock:
            try:
                if not self._stop.is_set():
                    self._started = time.monotonic()
                    self._items.put(self._work(self._report))
            except Stopped:
                pass
            except BaseException as error:  # handed to the thread that waits
                self._items.put(error)

    def _report(self, stage: int, step: int, steps: int, x_0_hat: Tensor) -> bool:
        loaded = self._studio._loaded
        if loaded is not None and self._items.qsize() < 2:
            (image,) = to_pil(loaded[1].stages[stage].preview(x_0_hat[:1]))
            side = max(PREVIEW, image.width)
            size = side, round(side * image.height / image.width)
            left = (time.monotonic() - self._started) / (step + 1) * (steps - step - 1)
            text = f"Stage {stage}: step {step + 1} of {steps}"
            if stage == len(loaded[1].stages) - 1 and steps - step > 1:
                text += f", about {left:.0f} s left"
            self._items.put(Progress(text, image.resize(size, Image.Resampling.NEAREST)))
        return self._stop.is_set()


def _is_model(path: Path) -> bool:
    directory = TrainingDirectory(path)
    return (directory.parameters / "imagen.json").is_file() and directory.samples_images
