"""What else a trained cascade can do: short functions over ``Imagen.sample``.

``settings`` are the keyword arguments of ``Imagen.sample``: seeds, options, sampling settings.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from minimagen.arguments import Options, captions_of, seeds_of, shown, stages_from
from minimagen.between import BetweenCaptions, BetweenSeeds, at_equal_steps, evenly, unevenness
from minimagen.checked import whole_number
from minimagen.config import Size
from minimagen.config.cascade_sizes import sizes_of_ratio
from minimagen.data.images.decoding import to_rgb
from minimagen.errors import Stopped, UserError
from minimagen.imagen import Imagen
from minimagen.images import resize_clamped, to_model_space, to_pil

LARGEST = 4096  # px: the longer side of an image to edit
STRENGTH = 0.6
"""Of what is sampled anew, where nothing is masked and nothing else is given."""
EVEN = 2.0  # of the median: a step between frames that is no jump
Images = Image.Image | Sequence[Image.Image]
"""One image, or several."""


def image_to_image(
    imagen: Imagen,
    captions: str | Sequence[str],
    images: Images,
    strength: float = STRENGTH,
    **settings: Any,
) -> Any:
    """Return images that begin with given ones (SDEdit, arXiv 2108.01073).

    Args:
        imagen: The cascade.
        captions: What they should show.
        images: One for each caption, or one for all; of any size.
        strength: The time in (0, 1] that they are noised to; 1 keeps nothing.
        settings: See above.
    """
    given = as_tensor(images, _sizes(imagen, settings)[-1])
    return imagen.sample(captions, init_images=given, strength=strength, **settings)


def inpaint(
    imagen: Imagen,
    captions: str | Sequence[str],
    images: Images,
    masks: Images,
    strength: float = 1.0,
    **settings: Any,
) -> Any:
    """Return images that are sampled anew where the mask is white, and kept to the bit elsewhere.

    Args:
        imagen: The cascade.
        captions: What the images should show.
        images: One for each caption, or one for all.
        masks: One for each of ``images``, of its size.
        strength: As in ``image_to_image``, of what is sampled anew.
        settings: See above; ``resample`` repeats each step.
    """
    size, each, own = _sizes(imagen, settings)[-1], listed(images), listed(masks)
    if len(each) != len(own):
        raise UserError(f"{len(own)} masks for {len(each)} images: give each image its `mask`")
    for image, mask in zip(each, own, strict=True):
        if image.size != mask.size:
            raise UserError(
                f"the `mask` is {mask.width} x {mask.height}, the image {image.width} x "
                f"{image.height} pixels; give one of the image's size"
            )
    given, new = as_tensor(each, size), as_mask(own, size)
    return imagen.sample(captions, init_images=given, mask=new, strength=strength, **settings)


def upscale(imagen: Imagen, captions: str | Sequence[str], images: Images, **settings: Any) -> Any:
    """Return images enlarged by the super-resolution stages, from ``first`` (1) on.

    Raises:
        UserError: The cascade has none.
    """
    first = settings.pop("first", 1)
    if first >= len(imagen.stages):
        raise UserError(
            f"the cascade has {len(imagen.stages)} stage{'s' * (len(imagen.stages) > 1)}: none "
            "enlarges images; take one with super-resolution"
        )
    low_res = as_tensor(images, _sizes(imagen, settings)[first - 1])
    return imagen.sample(captions, first=first, low_res=low_res, **settings)


def variations(
    imagen: Imagen,
    caption: str,
    image: Image.Image,
    count: int,
    strength: float = STRENGTH,
    **settings: Any,
) -> list[Image.Image]:
    """Return ``count`` images that begin with one, each with its own seed."""
    count = whole_number("count", count, least=1)
    captions = [caption] * count
    return [*image_to_image(imagen, captions, [image] * count, strength, **settings)]


def interpolate_captions(
    imagen: Imagen,
    first: str,
    last: str,
    count: int,
    *,
    seed: int = 0,
    rounds: int = 4,
    **settings: Any,
) -> list[Image.Image]:
    """Return images from one caption to another, all with the same noise.

    The embeddings are mixed linearly, token by token: their lengths mean something to the network,
    and those of T5 are not of one length. The shorter caption is stretched to as many tokens.

    Images change most in a small part of the way: after each round the frames move there, to where
    the steps between images are equal as far as is known, until no step is much larger than others.
    A ``callback`` that stops a later round than the first ends them: the best one so far is taken.

    Args:
        imagen: The cascade.
        first: Caption of the first image.
        last: Caption of the last one.
        count: Images to return.
        seed: Of all images.
        rounds: At most so many times ``count`` images are sampled; 1 divides the embeddings evenly.
        settings: See above.
    """
    count = whole_number("count", count, least=2)
    encoder = BetweenCaptions(imagen.text_encoder, first, last)
    found: dict[float, Image.Image] = {}
    shares = evenly(count)
    tried: list[list[Image.Image]] = []
    for _ in range(whole_number("rounds", rounds, least=1)):
        new = [share for share in shares if share not in found]
        options = settings | {"seeds": [seed] * len(new), "encoder": encoder}
        try:
            images = imagen.sample([*map(encoder.caption, new)], **options)
        except Stopped:
            if not tried:
                raise
            break
        found.update(zip(new, images, strict=True))
        tried.append([found[share] for share in shares])
        if unevenness(tried[-1]) <= EVEN:
            break
        shares = at_equal_steps(found, count)
    return min(tried, key=unevenness)


def interpolate_seeds(
    imagen: Imagen, caption: str, first: int, last: int, count: int, **settings: Any
) -> list[Image.Image]:
    """Return images of a caption from the noise of one seed to that of another."""
    count = whole_number("count", count, least=2)
    begin, end = (whole_number("seed", seed, least=0) for seed in (first, last))
    noise = partial(BetweenSeeds, begin, end, count)
    return [*imagen.sample([caption] * count, seeds=range(count), noise=noise, **settings)]


@dataclass(frozen=True)
class Frame:
    """An estimate on the way to an image."""

    stage: int
    step: int
    image: Image.Image


def film(imagen: Imagen, caption: str, **settings: Any) -> list[Frame]:
    """Return the estimate of x_0 after every step of every stage, and the image at last.

    A ``callback`` that stops sampling ends the film there, without the image.
    """
    frames: list[Frame] = []
    callback = settings.pop("callback", None)

    def take(stage: int, step: int, steps: int, x_0_hat: Tensor) -> bool | None:
        (image,) = to_pil(imagen.stages[stage].preview(x_0_hat))
        frames.append(Frame(stage, step, image))
        return callback(stage, step, steps, x_0_hat) if callback else None

    with suppress(Stopped):
        (final,) = imagen.sample([caption], callback=take, **settings)
        frames.append(Frame(len(imagen.stages) - 1, frames[-1].step + 1, final))
    return frames


def sweep(
    imagen: Imagen, caption: str, axes: Mapping[str, Sequence[Any]], **settings: Any
) -> list[tuple[dict[str, Any], Image.Image]]:
    """Return an image for each combination of settings, the last axis changing fastest.

    Args:
        imagen: The cascade.
        caption: Of all images.
        axes: Values of settings by name, of sampling settings, or of ``seed``.
        settings: What all have; without a ``seed`` they have the same fresh one.
    """
    if settings.get("seed") is None and "seeds" not in settings:
        (settings["seed"],) = seeds_of(None, None, 1)
    return [(cell, imagen.sample(caption, **{**settings, **cell})) for cell in cells_of(axes)]


def cells_of(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return each combination of values by name, the last axis changing fastest."""
    return [dict(zip(axes, each, strict=True)) for each in product(*axes.values())]


def label_of(cell: Mapping[str, Any]) -> str:
    """Return what stands below the image of a combination."""
    return ", ".join(f"{name} {value}" for name, value in cell.items())


def by_stage(
    imagen: Imagen, captions: str | Sequence[str], *, progress: bool = False, **settings: Any
) -> list[list[Image.Image]]:
    """Return the images of every stage, those of the first one enlarged by interpolation beside."""
    texts, own = captions_of(captions), settings.pop("seeds", None)
    seeds = seeds_of(settings.pop("seed", 0 if own is None else None), own, len(texts))
    options = Options.taken_from(settings, len(texts))
    samplings = stages_from(options.get("first", 0), imagen.samplings(**settings))
    with shown(options.pop("callback", None), progress) as callback:
        stages = imagen.sample_stages(texts, samplings, seeds, callback=callback, **options)
    if not texts:
        return stages
    size = stages[-1][0].size
    bicubic = [image.resize(size, Image.Resampling.BICUBIC) for image in stages[0]]
    return [stages[0], bicubic, *stages[1:]] if len(stages) > 1 else [*stages]


def _sizes(imagen: Imagen, settings: Mapping[str, Any]) -> list[Size]:
    """Return the sizes of the images of every stage, as ``settings`` shape them."""
    return sizes_of_ratio(imagen.config, settings.get("aspect_ratio"))


def as_tensor(images: Images, size: Size) -> Tensor:
    """Return images as [n 3 h w] in [-1, 1]: on white, their middle in the shape of ``size``.

    Raises:
        UserError: One is not an image, or is too large.
    """
    return torch.cat([_fitted(image, size) for image in listed(images)])


def as_mask(masks: Images, size: Size) -> Tensor:
    """Return masks as [n 1 h w], 1 where they are at least half white, as ``as_tensor`` cuts.

    What is transparent is black: nothing is drawn there.
    """
    gray = [_rgb(mask, "black").convert("L") for mask in listed(masks)]
    return (as_tensor(gray, size)[:, :1] >= 0.0).float()


def listed(images: Any) -> list[Image.Image]:
    """Return one image or several as a list.

    Raises:
        UserError: There is none, or one is not an image, is empty or too large.
    """
    several = isinstance(images, Iterable) and not isinstance(images, str | Image.Image)
    each = [*images] if several else [images]
    if not each:
        raise UserError("there is no image; give one, or one for each caption")
    for image in each:
        if not isinstance(image, Image.Image):
            raise UserError(f"an image is a {type(image).__name__}; give a PIL image")
        if not 0 < min(image.size) <= max(image.size) <= LARGEST:
            raise UserError(
                f"the image is {image.width} x {image.height} pixels; give one of 1 to {LARGEST}"
            )
    return each


def _rgb(image: Image.Image, ground: str = "white") -> Image.Image:
    """Return an image in RGB; a UserError for pixels without an agreed range."""
    try:
        return to_rgb(image, ground)
    except ValueError:  # such as 32-bit floats
        raise UserError(
            f"the image has pixels of mode {image.mode}, which are not colors; give RGB or gray"
        ) from None


def _fitted(image: Image.Image, size: Size) -> Tensor:
    """Return an image [1 3 h w], its middle cut out in the shape of ``size``."""
    pixels = np.asarray(_rgb(image))
    x = to_model_space(rearrange(torch.from_numpy(pixels.copy()), "h w c -> 1 c h w"))
    (rows, columns), (height, width) = x.shape[-2:], size
    part = min(rows / height, columns / width)
    cut = max(1, round(height * part)), max(1, round(width * part))
    top, left = (rows - cut[0]) // 2, (columns - cut[1]) // 2
    return resize_clamped(x[..., top : top + cut[0], left : left + cut[1]], size)
