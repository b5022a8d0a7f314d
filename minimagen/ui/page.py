"""The layout of the page: tabs, controls, what happens when one is pressed."""

import math
from collections.abc import Iterator
from typing import Any

import gradio as gr

from minimagen.checked import whole_number
from minimagen.errors import UserError
from minimagen.evaluation.html import CHART_STYLE, DARK, LIGHT
from minimagen.ui.edits import edit_tabs
from minimagen.ui.form import MOST, fields_of, form_of, not_filled, numbers
from minimagen.ui.parts import Controls, action, copy_of, safe, streamed, toasted
from minimagen.ui.runs import log_lines, losses, newest_sheet, state
from minimagen.ui.studio import Studio

QUEUE = 16  # requests that wait at most
KEPT = 3600, 86_400  # s: how often, and how old, files that were shown are deleted
FONTS = ["system-ui", "sans-serif"]
THEME = gr.themes.Soft(font=FONTS, font_mono=["ui-monospace", "monospace"])  # none from a network
CSS = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: auto; }
.gradio-container .tabs, .gradio-container .tabitem { min-width: 0; width: 100%; }
footer { display: none !important; }
.pixels img { image-rendering: pixelated; object-fit: contain !important; }
.pixels .thumbnail-item { max-height: 390px; }
figure { --soft: var(--body-text-color-subdued); --line: var(--border-color-primary); }
"""
CSS += f"figure {{{LIGHT}}} .dark figure {{{DARK}}} {CHART_STYLE}"
SCRIPT = """
<script>
document.addEventListener("keydown", (event) => {
  if (!event.ctrlKey || event.key !== "Enter") return;
  [...document.querySelectorAll("button.primary")].find((each) => each.offsetParent)?.click();
});
let folded = innerWidth >= 600;
new MutationObserver(() => {  // parts of the page come late, and some only with their tab
  const settings = folded ? null : document.querySelector("#settings button");
  if (settings !== null) {  // on a phone the button comes before the settings
    folded = true;
    setTimeout(() => settings.click());  // it takes no clicks before it is whole
  }
  // the label around a text with a copy button is that of the button
  for (const text of document.querySelectorAll("label:has(button) textarea:not([aria-label])")) {
    text.ariaLabel = text.closest("label").querySelector("[data-testid=block-info]").innerText;
  }
}).observe(document, {childList: true, subtree: true});
</script>
"""
INTRO = """# MinImagen
A caption goes through a text encoder; stages of a diffusion cascade make an image of it, small at
first, then larger."""


def build(studio: Studio) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title="MinImagen", analytics_enabled=False, delete_cache=KEPT) as page:
        gr.Markdown(INTRO)
        history = gr.State([])
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                controls = Controls.build(studio)
            with gr.Column(scale=3, min_width=300), gr.Tabs():
                with gr.Tab("Generate"):
                    _generate_tab(studio, controls, history)
                edit_tabs(studio, controls, history)
                with gr.Tab("Sweep"):
                    _sweep_tab(studio, controls, history)
                with gr.Tab("Stages"):
                    _stages_tab(studio, controls, history)
                with gr.Tab("Film"):
                    _film_tab(studio, controls, history)
                with gr.Tab("Image info"):
                    _info_tab(studio, controls)
                with gr.Tab("History"):
                    _history_tab(history)
                with gr.Tab("Training"):
                    show, run, shown = _training_tab(studio)
        quietly: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        page.load(show, run, shown, **quietly)
        page.load(lambda: gr.Dropdown(list(studio.models())), None, controls.model, **quietly)
    return page


def serve(page: gr.Blocks, studio: Studio, port: int) -> None:
    """Serve the page on this machine alone, until Ctrl-C."""
    studio.load_first()
    page.queue(max_size=QUEUE, default_concurrency_limit=1)
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        theme=THEME,
        css=CSS,
        head=SCRIPT,
        footer_links=["api"],
        ssr_mode=False,
        show_error=True,  # of errors that were not expected, too
        max_file_size="30mb",
    )


def _generate_tab(studio: Studio, controls: Controls, history: gr.State) -> None:
    def generate(*values: Any) -> Iterator[Any]:
        yield from streamed(studio.generate(form_of(*values)))

    action(studio, controls, "Generate", "generate", generate, history)


def _stages_tab(studio: Studio, controls: Controls, history: gr.State) -> None:
    gr.Markdown("What every stage makes, beside the first one's images enlarged by interpolation.")

    def stages(*values: Any) -> Iterator[Any]:
        yield from streamed(studio.stages(form_of(*values)))

    action(studio, controls, "Show every stage", "stages", stages, history)


def _film_tab(studio: Studio, controls: Controls, history: gr.State) -> None:
    gr.Markdown("The estimate of one image after every step, from noise to what is made of it.")

    def film(*values: Any) -> Iterator[Any]:
        yield from streamed(studio.film(form_of(*values)))

    action(studio, controls, "Film it", "film", film, history)


def _sweep_tab(studio: Studio, controls: Controls, history: gr.State) -> None:
    names = ["guidance_scale", "timesteps", "sampler", "aug_level", "seed"]
    gr.Markdown("One image for each value of a setting, or for each pair of values of two.")
    with gr.Row():
        first = gr.Dropdown(names, value="guidance_scale", label="Setting 1", min_width=200)
        first_values = gr.Textbox("1,2,4", label="Its values, with commas", min_width=200)
    with gr.Row():
        second = gr.Dropdown(["none", *names], value="none", label="Setting 2", min_width=200)
        second_values = gr.Textbox("", label="Its values, with commas", min_width=200)
    total = gr.Markdown("3 images")
    axes = [first, first_values, second, second_values]
    gr.on(
        [first.change, first_values.change, second.change, second_values.change],
        _total, axes, total, api_visibility="private", show_progress="hidden",
    )  # fmt: skip

    def sweep(*values: Any) -> Iterator[Any]:
        given = values[len(controls.all) :]
        yield from streamed(studio.sweep(form_of(*values), _axes(*given)))

    action(studio, controls, "Sweep", "sweep", sweep, history, axes)


def _axes(first: str, first_values: str, second: str, second_values: str) -> dict[str, list[Any]]:
    """Return the values of each setting.

    Raises:
        UserError: There are none, a value is not valid, or both settings are the same.
    """
    if first == second:
        raise UserError("Both settings are the same: choose another one, or none.")
    axes: dict[str, list[Any]] = {}
    for name, text in ((first, first_values), (second, second_values)):
        if name == "none":
            continue
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts:
            raise UserError(f"{name} has no values: give some, with commas.")
        axes[name] = parts if name == "sampler" else [numbers(name, part) for part in parts]
        if name == "seed":
            axes[name] = [whole_number("seed", each, least=0) for each in axes[name]]
    return axes


def _total(*given: str) -> str:
    try:
        count = math.prod(map(len, _axes(*given).values()))
    except UserError as error:
        return str(error)
    many = f": too many, at most {MOST}" if count > MOST else ""
    return f"{count} image{'s' * (count != 1)}{many}"


def _info_tab(studio: Studio, controls: Controls) -> None:
    from minimagen.storage.metadata import EXACT, TEXT, parameters_text, read_generation, read_text

    gr.Markdown("What an image, a strip or an animation says of how it was made.")
    file = gr.File(label="Image file", file_types=[".png", ".gif", ".webp"], type="filepath")
    text = gr.Textbox(label="Parameters", lines=5, interactive=False, buttons=["copy"])
    exact = gr.JSON(label="Exact parameters")
    use = gr.Button("Use these")

    def show(path: str | None) -> tuple[str, Any]:
        if path is None:
            return "", None
        chunks: dict[str, str] = {}
        try:
            chunks = read_text(path)
            if EXACT not in chunks:
                return chunks.get(TEXT, "This image does not say how it was made."), None
            made = read_generation(path)
        except UserError as error:  # what another file said is not shown under its name
            gr.Warning(safe(error))
            return chunks.get(TEXT, ""), None
        return chunks.get(TEXT) or parameters_text(made), made.model_dump(mode="json")

    def fill(path: str | None) -> list[Any]:
        if path is None:
            raise UserError("There is no image: give a file first.")
        made = read_generation(path)
        model = studio.made_by(made)
        trained = None if model is None else studio.trained_settings(model)
        for missing in not_filled(made, trained):
            gr.Warning(safe(missing))
        fields = fields_of(made, None if trained is None else len(trained))
        chosen = gr.skip() if model is None else gr.Dropdown(list(studio.models()), value=model)
        return [chosen, *fields]

    file.change(toasted(show), file, [text, exact], api_visibility="private")
    use.click(toasted(fill), file, controls.all, api_visibility="private")


def _history_tab(history: gr.State) -> None:
    gr.Markdown("The images of this session, the newest first.")
    gallery = gr.Gallery(label="History", columns=4, object_fit="contain", format="png")
    history.change(lambda paths: paths[::-1], history, gallery, api_visibility="private")


def _training_tab(studio: Studio) -> tuple[Any, gr.Dropdown, list[Any]]:
    """Lay out the view of a run; return what fills it, from what, and where."""
    names = list(studio.runs())
    with gr.Row():
        run = gr.Dropdown(names, value=names[0] if names else None, label="Training run",
                          allow_custom_value=True)  # fmt: skip  # one that is gone is no error
        refresh = gr.Button("Look for runs", scale=0, min_width=140)
    where = gr.Markdown()
    plot = gr.HTML()
    sheet = gr.Image(label="Newest samples", type="filepath", format="png", interactive=False)
    log = gr.Textbox(label="Log", lines=8, interactive=False)

    def show(name: str | None) -> tuple[str, str, Any, str]:
        path = studio.runs().get(name or "")
        if path is None:
            return "No run is chosen.", "", None, ""
        newest = newest_sheet(path)
        sheet = None if newest is None else copy_of(newest)
        return state(path), losses(path), sheet, log_lines(path)

    shown = [where, plot, sheet, log]
    run.change(show, run, shown, api_visibility="private", show_progress="hidden")
    gr.Timer(5.0).tick(
        show, run, shown, api_visibility="private", show_progress="hidden", concurrency_limit=None
    )
    refresh.click(
        lambda: gr.Dropdown(choices=list(studio.runs())), None, run, api_visibility="private"
    )
    return show, run, shown
