"""What the page does, without the page: models, requests, images on disk, progress."""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from minimagen.device import resolve_device
from minimagen.editing import by_stage, cells_of, interpolate_captions, label_of
from minimagen.errors import Stopped, UserError
from minimagen.generating import Edit, Generator, Request, batches_of, encoded
from minimagen.imagen import Imagen
from minimagen.images import to_pil
from minimagen.storage.animation import save_animations, save_strip
from minimagen.storage.directory import TrainingDirectory, read_imagen_config, stamped
from minimagen.storage.image_files import ImageFolder, contact_sheet
from minimagen.storage.metadata import Generation, parameters_text, save_png
from minimagen.storage.model_hash import model_hash
from minimagen.text.encoded import EncodedCaptions
from minimagen.ui.form import MOST, Form

PREVIEW = 256  # px
AT_ONCE = 8  # images in a batch: what is finished is kept when one cancels


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

    @property
    def exact(self) -> str:
        """Return the same exactly, as JSON."""
        return self.made[0].model_dump_json(indent=1) if self.made else ""


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
        self._written: tuple[int, ...] = ()  # when the weights of the loaded model were
        self._lock = threading.Lock()  # the queue of the page has one place, its API too

    def models(self) -> dict[str, Path]:
        """Return the trained cascades by name, the newest first."""
        found = [p for p in self._newest_first() if _is_model(p)]
        return {path.name: path for path in [*found, *filter(_is_model, self._bundled)]}

    def runs(self) -> dict[str, Path]:
        """Return the training directories by name, the newest first, trained or not."""
        return {path.name: path for path in self._newest_first()}

    def _newest_first(self) -> list[Path]:
        """Return the directories under the root that have parameters."""
        found = [p for p in self.root.iterdir() if _has_parameters(p)]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)

    def load(self, name: str) -> tuple[Imagen, str]:
        """Return a cascade and the hash of its weights; the one before is given up.

        Raises:
            UserError: There is no such model.
        """
        models = self.models()
        if name not in models:
            raise UserError(f"There is no model {name!r} under {self.root.name}: choose another.")
        written = _written(models[name])
        if self._loaded is None or self._loaded[0] != name or self._written != written:
            self._loaded, self._written = None, written
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
            samplings = imagen.samplings(**form.changes())[first:]
            requests = [form.request(seed, samplings) for seed in form.seeds(form.count)]
            return self._sampled(imagen, digest, requests, report, given)

        return Stream(self, work)

    def sweep(self, form: Form, axes: dict[str, list[Any]]) -> "Stream":
        """Sample one image for each combination of values, with one seed, as a sheet."""
        form = form.checked()
        total = math.prod(map(len, axes.values()))
        if not 1 <= total <= MOST:
            raise UserError(f"The sweep has {total} images; give values for 1 to {MOST}.")

        def work(report: Callable[[int, int, int, Tensor], bool]) -> Result:
            imagen, digest = self.load(form.model)
            (seed,), cells = form.seeds(), cells_of(axes)
            requests = []
            for cell in cells:
                changes = form.changes() | {k: v for k, v in cell.items() if k != "seed"}
                own = imagen.samplings(**changes)
                requests.append(form.request(int(cell.get("seed", seed)), own))
            result = self._sampled(imagen, digest, requests, report, None)
            sheet = result.paths[0].parents[1] / "sweep.png"
            images = [Image.open(path).convert("RGB") for path in result.paths]
            save_png(sheet, contact_sheet([*map(label_of, cells)], [images]))
            return Result(result.paths, sheet, result.made, seed)

        return Stream(self, work)

    def interpolate(self, form: Form, last: str, frames: int) -> "Stream":
        """Sample images from the form's caption to another one, with one seed, and an animation."""
        form, end = form.checked(), replace(form, caption=last).checked()

        def work(report: Callable[[int, int, int, Tensor], bool]) -> Result:
            imagen, _ = self.load(form.model)
            (seed,) = form.seeds()
            images = interpolate_captions(
                imagen, form.caption, end.caption, frames, seed=seed, callback=report,
                negative=form.against, progress=False, **form.changes(),
            )  # fmt: skip
            folder = stamped("generated_images", self.root)
            paths = [folder / f"frame_{i}.png" for i in range(frames)]
            for path, image in zip(paths, images, strict=True):
                save_png(path, image)
            animations = save_animations(folder, "interpolation", images)
            strip = save_strip(folder, "interpolation", images)
            return Result([*paths, *animations], strip, [], seed)

        return Stream(self, work)

    def stages(self, form: Form) -> "Stream":
        """Sample images of a form, and show those of every stage on a sheet."""
        form = form.checked()

        def work(report: Callable[[int, int, int, Tensor], bool]) -> Result:
            imagen, _ = self.load(form.model)
            seeds = form.seeds(form.count)
            columns = by_stage(
                imagen, [form.text] * form.count, seed=seeds[0], callback=report,
                negative=form.against, **form.changes(),
            )  # fmt: skip
            sheet = stamped("generated_images", self.root) / "stages.png"
            labels = [f"seed {seed}" for seed in seeds]
            save_png(sheet, contact_sheet(labels, columns))
            return Result([sheet], sheet, [], seeds[0])

        return Stream(self, work)

    def enlarges(self, name: str) -> bool:
        """Return whether a model has stages that enlarge images."""
        path = self.models().get(name)
        with contextlib.suppress(UserError):  # what is wrong with a model is said when it is used
            return path is not None and len(read_imagen_config(path / "parameters").stages) > 1
        return False

    def _sampled(
        self,
        imagen: Imagen,
        digest: str,
        requests: list[Request],
        report: Callable[[int, int, int, Tensor], bool],
        edit: Edit | None,
    ) -> Result:
        """Sample batch by batch, each on disk as soon as it is done."""
        imagen.text_encoder.to(self._device)
        text = encoded(imagen, requests)
        weights = ("final",) * len(imagen.stages)
        generator = Generator(imagen, text, digest, weights, {"callback": report}, edit)
        folder = ImageFolder(stamped("generated_images", self.root), Path(self._name()))
        paths, made = [], []
        for batch in batches_of(requests, AT_ONCE):
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
        self._begun = time.monotonic()  # when the first step of a stage was done

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
                    self._items.put(self._work(self._report))
            except Stopped:
                pass
            except BaseException as error:  # handed to the thread that waits
                self._items.put(error)

    def _report(self, stage: int, step: int, steps: int, x_0_hat: Tensor) -> bool:
        loaded = self._studio._loaded
        if step == 0:
            self._begun = time.monotonic()
        if loaded is not None and self._items.qsize() < 2:
            (image,) = to_pil(loaded[1].stages[stage].preview(x_0_hat[:1]))
            side = max(PREVIEW, image.width)
            size = side, round(side * image.height / image.width)
            text = f"Stage {stage}: step {step + 1} of {steps}"
            if step > 0 and steps - step > 1:
                left = (time.monotonic() - self._begun) / step * (steps - step - 1)
                text += f", about {left:.0f} s left of this stage"
            self._items.put(Progress(text, image.resize(size, Image.Resampling.NEAREST)))
        return self._stop.is_set()


def _is_model(path: Path) -> bool:
    try:
        return _has_parameters(path) and TrainingDirectory(path).samples_images
    except PermissionError:
        return False


def _has_parameters(path: Path) -> bool:
    try:
        return (TrainingDirectory(path).parameters / "imagen.json").is_file()
    except PermissionError:  # of another user
        return False


def _written(path: Path) -> tuple[int, ...]:
    """Return when each file of weights was written."""
    files = sorted(TrainingDirectory(path).state_dicts.glob("*.safetensors"))
    return tuple(file.stat().st_mtime_ns for file in files)
