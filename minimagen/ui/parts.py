"""What the tabs share: the controls on the left, what is shown while and after sampling."""

import functools
import hashlib
import html
import inspect
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from minimagen.config.stages import SamplerName
from minimagen.errors import UserError
from minimagen.ui.stream import Progress, Result, Stream
from minimagen.ui.studio import Studio

OWN = "as trained"
STOPPED = "Stopped. What was finished is kept."
READY, STARTED = "Ready.", "Starting ..."
QUEUED = "Waiting in the queue: another request is being sampled ..."
WAITING = "Waiting for the model ..."
EACH = "one, or one per stage: 8,2"


def safe(error: UserError | str) -> str:
    """Return what a toast says as text: it shows HTML, and may quote what a file says."""
    return html.escape(str(error), quote=False)


def toasted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its user errors as toasts, without a traceback."""

    @functools.wraps(function)
    def each(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            raise gr.Error(safe(error), print_exception=False) from None

    @functools.wraps(function)
    def every(*arguments: Any) -> Iterator[Any]:
        try:
            yield from function(*arguments)
        except UserError as error:
            raise gr.Error(safe(error), print_exception=False) from None

    return every if inspect.isgeneratorfunction(function) else each


@dataclass(frozen=True)
class Controls:
    """What says how to sample, for all tabs."""

    model: gr.Dropdown
    caption: gr.Textbox
    negative: gr.Textbox
    seed: gr.Number
    count: gr.Slider
    steps: gr.Textbox
    guidance: gr.Textbox
    sampler: gr.Dropdown
    aug_level: gr.Textbox
    newest: gr.State
    """The seed of what was sampled last, in any tab."""

    @classmethod
    def build(cls, studio: Studio) -> "Controls":
        """Lay the controls out."""
        models = list(studio.models())
        model = gr.Dropdown(models, value=models[0], label="Model")
        caption = gr.Textbox(label="Caption", lines=2, placeholder=_placeholder(studio, models[0]))
        negative = gr.Textbox(label="Negative caption", placeholder="what it should not show")
        with gr.Row():
            seed = gr.Number(label="Seed", precision=0, value=-1, min_width=120,
                             info="-1: a fresh one")  # fmt: skip
            count = gr.Slider(1, 16, value=1, step=1, label="Images", min_width=120)
        with gr.Row():
            dice = gr.Button("Dice", min_width=80, size="sm")
            reuse = gr.Button("Reuse seed", min_width=80, size="sm")
        with gr.Accordion("How to sample", open=True, elem_id="settings"):
            with gr.Row():
                steps = gr.Textbox(label="Steps", placeholder=OWN, info=EACH, min_width=120)
                guidance = gr.Textbox(label="Guidance", placeholder=OWN, info=EACH, min_width=120)
            with gr.Row():
                sampler = gr.Dropdown(
                    [(OWN, ""), *((name, name) for name in get_args(SamplerName))],
                    value="", label="Sampler", min_width=120,
                )  # fmt: skip
                aug_level = gr.Textbox(label="Augmentation", placeholder=OWN,
                                       info="noise on small images", min_width=120)  # fmt: skip
        newest = gr.State(None)
        dice.click(lambda: secrets.randbits(32), None, seed, api_visibility="private")
        reuse.click(
            lambda last: gr.skip() if last is None else last, newest, seed, api_visibility="private"
        )
        model.change(
            lambda name: gr.Textbox(placeholder=_placeholder(studio, name)), model, caption,
            api_visibility="private",
        )  # fmt: skip
        return cls(
            model, caption, negative, seed, count, steps, guidance, sampler, aug_level, newest
        )

    @property
    def all(self) -> list[Any]:
        """Return the inputs, in the order of ``form_of``."""
        return [self.model, self.caption, self.negative, self.seed, self.count, self.steps,
                self.guidance, self.sampler, self.aug_level]  # fmt: skip


def _placeholder(studio: Studio, name: str) -> str:
    """Return a caption that a model was trained on."""
    path = studio.models().get(name)
    file = None if path is None else path / "samples" / "captions.txt"
    if file is None or not file.is_file():
        return "what the image should show"
    return file.read_text("utf-8").strip().split("\n")[0][:200]


@dataclass(frozen=True)
class Outputs:
    """What is shown while sampling and after it."""

    status: gr.Markdown
    preview: gr.Image
    gallery: gr.Gallery
    sheet: gr.Image
    parameters: gr.Textbox
    exact: gr.Code
    files: gr.File
    seed: gr.Number

    @classmethod
    def build(cls) -> "Outputs":
        """Lay the outputs out."""
        status = gr.Markdown(READY, elem_classes="status")
        preview = gr.Image(label="Preview: the estimate so far", interactive=False, visible=False,
                           height=256, format="png", buttons=[])  # fmt: skip
        gallery = gr.Gallery(label="Images", show_label=False, columns=3, height=480, format="png",
                             object_fit="contain", elem_classes="pixels")  # fmt: skip
        with gr.Accordion("Parameters and files", open=False):
            parameters = gr.Textbox(label="Parameters of the first image", lines=4,
                                    interactive=False, buttons=["copy"])  # fmt: skip
            exact = gr.Code(label="Exactly, as JSON", language="json", interactive=False,
                            max_lines=12, buttons=["copy"])  # fmt: skip
            files = gr.File(label="PNG files with their parameters", file_count="multiple",
                            interactive=False)  # fmt: skip
            sheet = gr.Image(label="Sheet", interactive=False, type="filepath", format="png")
            seed = gr.Number(label="Seed of the first image", interactive=False, precision=0)
        return cls(status, preview, gallery, sheet, parameters, exact, files, seed)

    @property
    def all(self) -> list[Any]:
        """Return them in the order of what ``streamed`` yields."""
        return [self.status, self.preview, self.gallery, self.sheet, self.parameters, self.exact,
                self.files, self.seed]  # fmt: skip


def action(
    studio: Studio,
    controls: Controls,
    label: str,
    name: str,
    function: Callable[..., Any],
    history: gr.State,
    more: Sequence[Any] = (),
) -> None:
    """Lay out a button that samples, one that stops it, and what is shown.

    While it samples, the button cannot be pressed again.

    Args:
        studio: Samples.
        controls: What says how.
        label: On the button.
        name: The endpoint is ``/name``, the button's id ``name``.
        function: Takes the values of ``controls.all`` and ``more``, and yields those of
            ``Outputs.all``.
        history: Takes the files.
        more: What else it depends on.
    """
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_id=name)
        cancel = gr.Button("Cancel", variant="stop")
    outputs = Outputs.build()

    def pressed() -> tuple[str, Any]:
        return QUEUED if studio.busy else STARTED, gr.Button(interactive=False)

    def ended() -> Any:
        return gr.Button(interactive=True)

    def failed(status: str) -> tuple[Any, Any]:  # also after Cancel, which says so itself
        return READY if status in (STARTED, QUEUED, WAITING) else gr.skip(), ended()

    quietly: dict[str, Any] = {"api_visibility": "private", "queue": False}
    begun = go.click(pressed, None, [outputs.status, go], show_progress="hidden", **quietly)
    inputs = [*controls.all, *more]
    event = begun.then(toasted(function), inputs, outputs.all, api_name=name,
                       concurrency_id="device", concurrency_limit=1, show_progress="hidden",
                       trigger_mode="multiple")  # fmt: skip  # also before a stopped one has ended
    event.success(lambda seed: (seed, ended()), outputs.seed, [controls.newest, go], **quietly)
    event.failure(failed, outputs.status, [outputs.status, go], **quietly)
    event.success(
        lambda files, past: past + [file for file in files or [] if file not in past],
        [outputs.files, history], history, api_visibility="private",
    )  # fmt: skip
    click = cancel.click(None, cancels=[event], api_visibility="private")
    click.then(  # sampling stops after the step that it is at
        lambda: (STOPPED, gr.Image(None, visible=False), ended()), None,
        [outputs.status, outputs.preview, go], **quietly,
    )  # fmt: skip


def streamed(stream: Stream) -> Iterator[Any]:
    """Yield what the outputs show, step by step; after an error nothing of it goes on."""
    yield WAITING, *[gr.skip()] * 7
    try:
        for item in stream:
            if isinstance(item, Progress):
                yield (item.text, gr.Image(item.preview, visible=True), *[gr.skip()] * 6)
            else:
                yield _finished(item)
    except Exception:
        yield READY, gr.Image(None, visible=False), *[gr.skip()] * 6
        raise


@functools.cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="minimagen_page_")


def copy_of(path: Path) -> str:
    """Return a copy of a file that the page shows, as it is now.

    gradio serves copies of what lies in the system's temporary folder and is returned to it. Of the
    root it serves nothing, which is not so with ``allowed_paths``.
    """
    name = hashlib.sha256(f"{path.absolute()} {path.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    copy = Path(_copies().name) / name / path.name
    if not copy.is_file():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    return str(copy)


def _folder_of(result: Result) -> str:
    """Return the name of the folder that everything lies in."""
    return next(p.name for p in result.paths[0].parents if p.name.startswith("generated_images_"))


def _finished(result: Result) -> tuple[Any, ...]:
    paths = [copy_of(path) for path in result.paths]
    count = sum(path.suffix == ".png" for path in result.paths)
    folder = _folder_of(result)
    status = f"{count} image{'s' * (count > 1)}, seed {result.seed}, kept in `{folder}`."
    status = " ".join([status, *map(safe, result.notes)])
    sheet = None if result.sheet is None else copy_of(result.sheet)
    return (status, gr.Image(None, visible=False), paths, sheet, result.parameters, result.exact,
            paths, result.seed)  # fmt: skip
