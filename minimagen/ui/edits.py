"""The tabs that begin with an image, or go from one to another."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from minimagen.checked import whole_number
from minimagen.editing import STRENGTH, as_mask, as_tensor
from minimagen.errors import UserError
from minimagen.generating import Edit
from minimagen.imagen import Imagen
from minimagen.ui.form import form_of
from minimagen.ui.parts import Controls, action, streamed
from minimagen.ui.studio import GivenImages, Studio

AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of images that are kept as they are."""


def edit_tabs(studio: Studio, controls: Controls, history: gr.State) -> None:
    """Lay out image to image, inpainting and enlarging."""
    with gr.Tab("Image to image"):
        _image_to_image(studio, controls, history)
    with gr.Tab("Inpaint"):
        _inpaint(studio, controls, history)
    with gr.Tab("Upscale", visible=studio.enlarges(controls.model.value)) as enlarging:
        _upscale(studio, controls, history)
    with gr.Tab("Interpolate"):
        _interpolate(studio, controls, history)
    controls.model.change(
        lambda name: gr.Tab(visible=studio.enlarges(name)), controls.model, enlarging,
        api_visibility="private",
    )  # fmt: skip


def _plain(image: Image.Image) -> Image.Image:
    """Return an image that is opaque as RGB: its digest is then that of an RGB file."""
    opaque = image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255)
    return image.convert("RGB") if opaque else image


def _image_to_image(studio: Studio, controls: Controls, history: gr.State) -> None:
    gr.Markdown("Several images are variations of one: each has its own seed.")
    image = gr.Image(label="Image to begin with", type="pil", image_mode="RGBA", height=260)
    strength = gr.Slider(0.02, 1.0, value=STRENGTH, step=0.02, label="Strength",
                         info="how much is sampled anew")  # fmt: skip

    def change(*values: Any) -> Iterator[Any]:
        given, much = values[-2:]
        if given is None:
            raise UserError("There is no image to begin with: give one.")
        given = _plain(given)

        def edit(imagen: Imagen) -> Edit:
            size = imagen.config.image_sizes[-1]
            return Edit(init_images=as_tensor([given], size), strength=float(much))

        yield from streamed(studio.generate(form_of(*values), edit, {"init_image": given}))

    more = [image, strength]
    action(studio, controls, "Change it", "image_to_image", change, history, more)


def _inpaint(studio: Studio, controls: Controls, history: gr.State) -> None:
    gr.Markdown("Draw over what is to be sampled anew, or give a mask in which that is white.")
    editor = gr.ImageEditor(
        label="Image to inpaint", type="pil", height=380, transforms=(), layers=False,
        sources=("upload", "clipboard"), format="png",
        brush=gr.Brush(colors=["#ff00ff"], color_mode="fixed", default_size=6),
    )  # fmt: skip
    mask = gr.Image(label="Mask, instead of drawing", type="pil", image_mode=None, height=160)
    resample = gr.Slider(1, 10, value=1, step=1, label="Times each step is taken",
                         info="more often: the new part knows more of the old one")  # fmt: skip

    def change(*values: Any) -> Iterator[Any]:
        drawn, given_mask, times = values[-3:]
        image, new = _drawn(drawn, given_mask)

        def edit(imagen: Imagen) -> Edit:
            size = imagen.config.image_sizes[-1]
            return Edit(as_tensor([image], size), as_mask([new], size), resample=int(times))

        own: GivenImages = {"init_image": image, "mask": new}
        yield from streamed(studio.generate(form_of(*values), edit, own))

    more = [editor, mask, resample]
    action(studio, controls, "Inpaint", "inpaint", change, history, more)


def _drawn(
    drawn: dict[str, Any] | None, mask: Image.Image | None
) -> tuple[Image.Image, Image.Image]:
    """Return the image and its mask: what is drawn over, or the mask that is given.

    Raises:
        UserError: There is no image, or nothing to sample anew.
    """
    image = None if drawn is None else drawn.get("background")
    if drawn is None or image is None:
        raise UserError("There is no image to inpaint: give one.")
    image = _plain(image)
    if mask is not None:
        if mask.size != image.size:
            raise UserError(
                f"The mask is {mask.width} x {mask.height}, the image {image.width} x "
                f"{image.height} pixels: give one of the image's size."
            )
        return image, mask if mask.mode in AS_PNG else mask.convert("RGB")
    layers = [np.asarray(layer.convert("RGBA"))[..., 3] > 0 for layer in drawn.get("layers") or []]
    drawn_over = np.any(layers, axis=0) if layers else np.zeros(1, bool)
    if not drawn_over.any():
        raise UserError("Nothing is drawn over: draw over what is to be sampled anew.")
    return image, Image.fromarray(drawn_over.astype(np.uint8) * 255)


def _upscale(studio: Studio, controls: Controls, history: gr.State) -> None:
    gr.Markdown("Super-resolution enlarges an image: the model needs two stages or more.")
    image = gr.Image(label="Small image", type="pil", image_mode="RGBA", height=260)

    def change(*values: Any) -> Iterator[Any]:
        given = values[-1]
        if given is None:
            raise UserError("There is no image to enlarge: give one.")
        given = _plain(given)

        def edit(imagen: Imagen) -> Edit:
            sizes = imagen.config.image_sizes
            if len(sizes) < 2:
                raise UserError("This model has one stage, which enlarges nothing: choose another.")
            return Edit(low_res=as_tensor([given], sizes[0]), first=1)

        yield from streamed(studio.generate(form_of(*values), edit, {"upscale": given}))

    action(studio, controls, "Upscale", "upscale", change, history, [image])


def _interpolate(studio: Studio, controls: Controls, history: gr.State) -> None:
    gr.Markdown("From the caption and the seed on the left to another caption, or to another seed.")
    with gr.Row():
        last = gr.Textbox(label="Last caption")
        last_seed = gr.Number(label="Last seed", precision=0, value=-1,
                              info="instead of a caption; -1: none")  # fmt: skip
    frames = gr.Slider(2, 33, value=9, step=1, label="Frames")

    def change(*values: Any) -> Iterator[Any]:
        end, count, seed = values[-3:]
        seed = None if seed in (None, -1) else whole_number("seed", seed, least=0)
        yield from streamed(studio.interpolate(form_of(*values), end or "", int(count), seed))

    more = [last, frames, last_seed]
    action(studio, controls, "Interpolate", "interpolate", change, history, more)
