"""What the page does, without the page: models, requests, images on disk, progress."""

import contextlib
import math
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from minimagen.device import resolve_device
from minimagen.editing import (
    by_stage,
    cells_of,
    film,
    interpolate_captions,
    interpolate_seeds,
    label_of,
)
from minimagen.errors import UserError
from minimagen.generating import (
    Edit,
    Generator,
    Request,
    batches_of,
    encoded,
    made_together,
    swept,
)
from minimagen.imagen import Imagen
from minimagen.storage.animation import save_animations, save_strip
from minimagen.storage.directory import TrainingDirectory, read_imagen_config, stamped
from minimagen.storage.image_files import ImageFolder, contact_sheet
from minimagen.storage.metadata import Generation, Given, GivenAs, Whole, save_png
from minimagen.storage.model_hash import model_among, model_hash
from minimagen.text.encoded import EncodedCaptions
from minimagen.ui.form import MOST, Form
from minimagen.ui.stream import Report, Result, Stream

AT_ONCE = 8  # images in a batch: what is finished is kept when one cancels
Edits = Callable[[Imagen], Edit]
GivenImages = Mapping[GivenAs, Image.Image]


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
        bundled = filter(_is_model, self._bundled)
        own = {path.name: path for path in found}
        return own | {path.name: path for path in bundled if path.name not in own}

    def runs(self) -> dict[str, Path]:
        """Return the training directories by name, the newest first, trained or not."""
        return {path.name: path for path in self._newest_first()}

    def _newest_first(self) -> list[Path]:
        """Return the directories under the root that have parameters."""
        visible = (p for p in self.root.iterdir() if not p.name.startswith("."))
        found = [p for p in visible if _has_parameters(p)]
        return sorted(found, key=lambda path: TrainingDirectory(path).changed, reverse=True)

    def made_by(self, made: Generation) -> str | None:
        """Return the name of the model whose weights made an image, if it is here."""
        loaded = self._loaded
        if loaded is not None and loaded[2] == made.model and loaded[0] in self.models():
            return loaded[0]
        names = {path: name for name, path in self.models().items()}
        found = model_among(made.model, made.weights, names)
        return None if found is None else names[found.path]

    @property
    def busy(self) -> bool:
        """Return whether something is sampled."""
        return self._lock.locked()

    def load(self, name: str) -> tuple[Imagen, str]:
        """Return a cascade and the hash of its weights; the one before is given up.

        Raises:
            UserError: There is no such model.
        """
        path = self._path_of(name)
        written = _written(path)
        if self._loaded is None or self._loaded[0] != name or self._written != written:
            self._loaded, self._written = None, written
            imagen = Imagen.from_directory(path).to(self._device)
            digest = model_hash(TrainingDirectory(path))
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

    def generate(
        self, form: Form, edit: Edits | None = None, given: GivenImages | None = None
    ) -> Stream:
        """Sample images of a form.

        Args:
            form: What is filled in.
            edit: What is done to an image, where one is given.
            given: That image and its mask; they are kept beside what is made of them.
        """
        form = form.checked()

        def work(report: Report) -> Result:
            imagen, digest = self.load(form.model)
            how = edit(imagen) if edit else None
            samplings = imagen.samplings(**form.changes())[how.first if how else 0 :]
            requests = [form.request(seed, samplings) for seed in form.seeds(form.count)]
            return self._sampled(imagen, digest, requests, report, how, given)

        return self._stream(work)

    def sweep(self, form: Form, axes: dict[str, list[Any]]) -> Stream:
        """Sample one image for each combination of values, with one seed, as a sheet."""
        form = form.checked()
        total = math.prod(map(len, axes.values()))
        if not 1 <= total <= MOST:
            raise UserError(f"The sweep has {total} images; give values for 1 to {MOST}.")

        def work(report: Report) -> Result:
            imagen, digest = self.load(form.model)
            (seed,), cells = form.seeds(), cells_of(axes)
            requests = swept(imagen, form.request(seed, ()), form.changes(), cells)
            result = self._sampled(imagen, digest, requests, report)
            sheet = result.paths[0].parents[1] / "sweep.png"
            images = [Image.open(path).convert("RGB") for path in result.paths]
            columns = len([*axes.values()][-1])
            swept_values = tuple((name, tuple(map(str, each))) for name, each in axes.items())
            whole = Whole(kind="sweep", texts=(form.text,), sweep=swept_values)
            made = result.made[0].replace(whole=whole)
            save_png(sheet, contact_sheet([*map(label_of, cells)], [images], columns), made)
            return replace(result, sheet=sheet)

        return self._stream(work)

    def interpolate(
        self, form: Form, last: str, frames: int, last_seed: int | None = None
    ) -> Stream:
        """Sample images from the form's caption to another one, with one seed, and an animation.

        With ``last_seed`` instead of a caption they go from the form's seed to that one.
        """
        if last_seed is not None and last.strip():
            raise UserError("Give a last caption or a last seed, not both.")
        form = form.checked()
        end = form if last_seed is not None else replace(form, caption=last).checked()

        def work(report: Report) -> Result:
            imagen, digest = self.load(form.model)
            (seed,) = form.seeds()
            how, texts = self._settings(form, report), (form.text, end.text)
            if last_seed is None:
                images = interpolate_captions(imagen, *texts, frames, seed=seed, **how)
                whole = Whole(kind="interpolate", texts=texts, frames=frames)
            else:
                images = interpolate_seeds(imagen, form.text, seed, last_seed, frames, **how)
                ends = seed, last_seed
                whole = Whole(kind="interpolate", texts=texts[:1], seeds=ends, frames=frames)
            made = _made(imagen, digest, form, seed, whole, images)
            return self._animated("interpolation", images, made)

        return self._stream(work)

    def film(self, form: Form) -> Stream:
        """Sample an image of a form, and show the estimate of it after every step."""
        form = form.checked()

        def work(report: Report) -> Result:
            imagen, digest = self.load(form.model)
            (seed,) = form.seeds()
            frames = film(imagen, form.text, seed=seed, **self._settings(form, report))
            images = [frame.image for frame in frames]
            whole = Whole(kind="film", texts=(form.text,))
            return self._animated("film", images, _made(imagen, digest, form, seed, whole, images))

        return self._stream(work)

    def _stream(self, work: Callable[[Report], Result]) -> Stream:
        def noted(report: Report) -> Result:
            self._notes()  # of what was stopped before
            return replace(work(report), notes=self._notes())

        return Stream(noted, self._lock, self._preview)

    def _notes(self) -> tuple[str, ...]:
        """Return what the stages of the loaded cascade have to say of what they sampled."""
        stages = self._loaded[1].stages if self._loaded else ()
        return tuple(note for stage in stages for note in stage.notes())

    def _preview(self, stage: int, x_0_hat: Tensor) -> Tensor | None:
        """Return images of an estimate of the loaded cascade."""
        loaded = self._loaded
        return None if loaded is None else loaded[1].stages[stage].preview(x_0_hat)

    def _settings(self, form: Form, report: Report) -> dict[str, Any]:
        """Return what images that belong together are sampled with."""
        own = {"callback": report, "negative": form.against, "progress": False}
        return own | form.changes()

    def _animated(self, name: str, images: list[Image.Image], made: Generation) -> Result:
        """Write frames, animations and a strip."""
        folder = stamped("generated_images", self.root)
        paths = [folder / f"frame_{i}.png" for i in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            save_png(path, image)
        animations = save_animations(folder, name, images, made)
        strip = save_strip(folder, name, images, made)
        return Result([*paths, *animations], strip, [made], made.seed)

    def stages(self, form: Form) -> Stream:
        """Sample images of a form, and show those of every stage on a sheet."""
        form = form.checked()

        def work(report: Report) -> Result:
            imagen, digest = self.load(form.model)
            seeds = form.seeds(form.count)
            columns = by_stage(
                imagen, [form.text] * form.count, seed=seeds[0], callback=report,
                negative=form.against, **form.changes(),
            )  # fmt: skip
            sheet = stamped("generated_images", self.root) / "stages.png"
            labels = [f"seed {seed}" for seed in seeds]
            whole = Whole(kind="stages_sheet", texts=(form.text,) * form.count)
            made = _made(imagen, digest, form, seeds[0], whole, columns[-1])
            save_png(sheet, contact_sheet(labels, columns), made)
            return Result([sheet], sheet, [made], seeds[0])

        return self._stream(work)

    def trained_settings(self, name: str) -> list[dict[str, Any]]:
        """Return how each stage of a model samples by default, JSON."""
        stages = read_imagen_config(self._path_of(name) / "parameters").stages
        return [stage.sampling.model_dump(mode="json") for stage in stages]

    def _path_of(self, name: str) -> Path:
        """Return where a model is; a UserError if there is none."""
        if (path := self.models().get(name)) is None:
            raise UserError(f"There is no model {name!r} under {self.root.name}: choose another.")
        return path

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
        report: Report,
        edit: Edit | None = None,
        given: GivenImages | None = None,
    ) -> Result:
        """Sample batch by batch, each on disk as soon as it is done."""
        imagen.text_encoder.to(self._device)
        text = encoded(imagen, requests)
        weights = ("final",) * len(imagen.stages)
        where = stamped("generated_images", self.root)
        kept = {name: _kept(where, name, image) for name, image in (given or {}).items()}
        generator = Generator(imagen, text, digest, weights, {"callback": report}, edit, kept)
        folder = ImageFolder(where, Path(self._name()))
        paths, made = [], []
        try:
            for batch in batches_of(requests, AT_ONCE):
                for image, generation in generator.sample(batch):
                    paths.append(folder.write(image, generation))
                    made.append(generation)
        finally:
            if not paths:
                shutil.rmtree(where)
        return Result(paths, folder.write_grid(), made, requests[0].seed)

    def _name(self) -> str:
        return self._loaded[0] if self._loaded else ""


def _made(
    imagen: Imagen, digest: str, form: Form, seed: int, whole: Whole, images: list[Image.Image]
) -> Generation:
    """Return how images that belong together were made; ``digest``: of the weights."""
    request = form.request(seed, imagen.samplings(**form.changes()))
    weights = ("final",) * len(imagen.stages)
    return made_together(whole, request, images[-1], digest, weights)


def _kept(folder: Path, name: GivenAs, image: Image.Image) -> Given:
    """Write an image that was given; return what the images made of it keep."""
    save_png(folder / f"{name}.png", image)
    return Given.of(f"{name}.png", image)


def _is_model(path: Path) -> bool:
    try:
        return _has_parameters(path) and TrainingDirectory(path).samples_images
    except PermissionError:
        return False


def _has_parameters(path: Path) -> bool:
    try:
        return TrainingDirectory(path).has_parameters
    except PermissionError:  # of another user
        return False


def _written(path: Path) -> tuple[int, ...]:
    """Return when each file of weights was written."""
    files = sorted(TrainingDirectory(path).state_dicts.glob("*.safetensors"))
    return tuple(file.stat().st_mtime_ns for file in files)
