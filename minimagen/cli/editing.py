"""What ``inference.py`` does with a given image, and images that belong together."""

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from minimagen.checked import PositiveInt
from minimagen.cli import options
from minimagen.cli.arguments import Option, is_given
from minimagen.cli.captions import ALIASES, Caption
from minimagen.cli.given import GivenImage
from minimagen.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from minimagen.cli.asked import Sheet
    from minimagen.config import Size
    from minimagen.generating import Edit, Request
    from minimagen.imagen import Imagen
    from minimagen.storage.metadata import GivenAs

CELLS = 400  # of a sweep at most


def axis(text: str) -> tuple[str, tuple[str, ...]]:
    """Return name and values of ``guidance=1,2,4``."""
    name, equals, values = text.partition("=")
    if not equals or not name or not all(values.split(",")):
        raise ValueError("must be setting=value,value, such as guidance=1,2,4")
    return name, tuple(values.split(","))


OPTIONS = (
    Option("INIT_IMAGE", "ii", "Image to begin with: its shapes and colors stay as far as "
           "--STRENGTH lets them", Path, shown="none", also=("init_img", "image", "img2img")),
    Option("STRENGTH", "sn", "How much of --INIT_IMAGE is sampled anew: the time that it is noised "
           "to, above 0, at most 1", Annotated[float, Field(gt=0.0, le=1.0)],
           shown="0.6, with --MASK 1", also=("denoising_strength",)),
    Option("MASK", "mk", "Of --INIT_IMAGE: what is white is sampled anew, all else is kept", Path,
           shown="none", also=("mask_image",)),
    Option("RESAMPLE", "re", "With --MASK: how often each step is taken", PositiveInt, 1),
    Option("UPSCALE", "up", "Small image that the super-resolution stages enlarge", Path,
           shown="none"),
    Option("START_STAGE", "s0", "With --UPSCALE: the stage to begin with", PositiveInt, 1),
    Option("VARIATIONS", "va", "Images that begin with --INIT_IMAGE, each with its own seed",
           PositiveInt, shown="none"),
    Option("INTERPOLATE", "ip", "From the first of two --CAPTIONS to the second, or between two "
           "--SEEDS of one, in --FRAMES images: a strip, .gif and .webp", bool),
    Option("FRAMES", "fr", "Images of --INTERPOLATE", Annotated[int, Field(ge=2, le=1000)], 9),
    Option("FILM", "fm", "The estimate of the image after every step: a strip, .gif and .webp",
           bool),
    Option("SWEEP", "sw", "An image for each value of one setting, or of two, whatever their flags "
           "say, as a sheet with labels: guidance=1,2,4 steps=8,16,32",
           Annotated[Any, BeforeValidator(axis)], shown="none", several=True),
    Option("STAGES_SHEET", "sh", "stages.png: what each stage makes, beside the first stage's "
           "image enlarged", bool),
)  # fmt: skip
NEEDS = {
    "MASK": "INIT_IMAGE", "STRENGTH": "INIT_IMAGE", "VARIATIONS": "INIT_IMAGE", "RESAMPLE": "MASK",
    "START_STAGE": "UPSCALE", "FRAMES": "INTERPOLATE",
}  # fmt: skip
"""What has no effect without another option."""
ALONE = ("INTERPOLATE", "FILM", "SWEEP", "STAGES_SHEET")
WITH_FROM_IMAGE = {"INIT_IMAGE", "MASK", "UPSCALE", "STRENGTH"}
NOT_ALONE = {"BEST_OF", "IMAGES_PER_CAPTION", "SEEDS", "STOP_STAGE"}


def check(arguments: argparse.Namespace, typed: set[str]) -> None:
    """Refuse options that contradict each other; ``typed`` are the names of those given."""
    for name, other in NEEDS.items():
        if name in typed and not is_given(arguments, other):
            raise UserError(f"--{name} belongs to --{other}: give that too")
    if arguments.INIT_IMAGE is not None and arguments.UPSCALE is not None:
        raise UserError("--INIT_IMAGE and --UPSCALE exclude each other; give one")
    if arguments.VARIATIONS is not None:
        if arguments.IMAGES_PER_CAPTION > 1 or arguments.SEEDS is not None:
            raise UserError("--VARIATIONS is the number of images; leave out other numbers")
        arguments.IMAGES_PER_CAPTION = arguments.VARIATIONS
    chosen = [name for name in ALONE if getattr(arguments, name)]
    given = [name for name in ("INIT_IMAGE", "UPSCALE") if getattr(arguments, name) is not None]
    if len(chosen) > 1 or (chosen and given):
        raise UserError(f"--{' and --'.join([*chosen, *given])} exclude each other; give one")
    without = NOT_ALONE - {"SEEDS"} if arguments.INTERPOLATE else NOT_ALONE
    if chosen and (others := sorted(typed & without)):
        raise UserError(f"--{chosen[0]} has no use for --{', --'.join(others)}; leave out")
    if arguments.SWEEP is not None:
        _axes(arguments.SWEEP)
    if arguments.UPSCALE is not None and arguments.STOP_STAGE is not None:
        if arguments.STOP_STAGE < arguments.START_STAGE:
            raise UserError(
                f"--STOP_STAGE {arguments.STOP_STAGE} is before the first stage of --UPSCALE, "
                f"{arguments.START_STAGE}; give that or a later one"
            )


def check_captions(arguments: argparse.Namespace, captions: Sequence[Caption]) -> None:
    """Refuse captions whose number or own options do not fit what is asked for."""
    chosen = [name for name in ALONE if getattr(arguments, name)]
    own = sorted({name for caption in captions for name in caption.own})
    if chosen and own:
        raise UserError(
            f"--{chosen[0]} has one setting for all: give --{', --'.join(own)} beside it, not in "
            "the line of a caption"
        )
    if (arguments.FILM or arguments.SWEEP is not None) and len(captions) > 1:
        raise UserError(
            f"--{chosen[0]} is of one caption, there are {len(captions)}: give one as --CAPTIONS"
        )
    if arguments.SEEDS is not None and {"SEED", "IMAGES_PER_CAPTION"} & set(own):
        raise UserError(
            "--SEEDS gives each caption one image for each seed; leave out --SEED and "
            "--IMAGES_PER_CAPTION in the lines of captions"
        )
    given = "INIT_IMAGE" if arguments.INIT_IMAGE is not None else "UPSCALE"
    if getattr(arguments, given) is not None and "ASPECT_RATIO" in own:
        raise UserError(
            f"--{given} has one shape: give --ASPECT_RATIO beside it, not in the line of a caption"
        )
    seeds = arguments.SEEDS
    one = seeds is not None and len(seeds) == 2 and len(captions) == 1
    if arguments.INTERPOLATE and not one and not (seeds is None and len(captions) == 2):
        raise UserError(
            "--INTERPOLATE goes from one caption to another, or between two seeds of one: there "
            f"are {len(captions)} captions and {len(seeds or ())} seeds; give a file with two "
            "captions, or one caption with --SEEDS 1,2"
        )


def edit_of(
    arguments: argparse.Namespace, imagen: "Imagen", given: "Mapping[GivenAs, GivenImage]"
) -> "Edit | None":
    """Return what is done to the image that is ``given``, if one is."""
    from minimagen.config.cascade_sizes import sizes_of_ratio
    from minimagen.editing import STRENGTH, as_tensor
    from minimagen.generating import Edit

    sizes = sizes_of_ratio(imagen.config, arguments.ASPECT_RATIO)
    if (small := given.get("upscale")) is not None:
        first = arguments.START_STAGE
        if first >= len(sizes):
            raise UserError(
                f"--UPSCALE begins with stage {first}, and the last one is {len(sizes) - 1}: take "
                "a cascade with super-resolution"
            )
        return Edit(low_res=as_tensor([small.image], sizes[first - 1]), first=first)
    if (begun := given.get("init_image")) is None:
        return None
    new = _mask_of(begun.image, given.get("mask"), sizes[-1])
    strength = arguments.STRENGTH or (STRENGTH if new is None else 1.0)
    return Edit(
        init_images=as_tensor([begun.image], sizes[-1]),
        mask=new,
        strength=strength,
        resample=arguments.RESAMPLE,
    )


def _mask_of(image: "Image.Image", given: GivenImage | None, size: "Size") -> "Tensor | None":
    """Return a given mask of an image, [1 1 h w]; None without one."""
    from minimagen.editing import as_mask

    if given is None:
        return None
    mask = given.image
    if mask.size != image.size:
        raise UserError(
            f"--MASK {given.path} is {mask.width} x {mask.height} pixels, the image "
            f"{image.width} x {image.height}; give one of the image's size"
        )
    new = as_mask([mask], size)
    if not new.any():
        raise UserError(
            f"--MASK {given.path} is black everywhere: what is white in it is sampled anew"
        )
    return new


def sheet_of_sweep(
    arguments: argparse.Namespace, imagen: "Imagen", request: "Request"
) -> "tuple[list[Request], Sheet]":
    """Return a request for each combination of ``--SWEEP``, and the sheet that shows them."""
    from minimagen.cli.asked import Sheet
    from minimagen.editing import cells_of, label_of
    from minimagen.generating import swept

    axes = _axes(arguments.SWEEP)
    cells = cells_of(axes)
    requests = swept(imagen, request, options.sampling_changes(arguments), cells)
    labels, columns = tuple(map(label_of, cells)), len([*axes.values()][-1])
    return requests, Sheet(labels=labels, columns=columns, axes=tuple(arguments.SWEEP))


def _axes(given: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, list[Any]]:
    """Return the values of one setting, or of two, by name in Python."""
    axes = dict(map(_axis_values, given))
    if len(given) > 2:
        raise UserError(f"--SWEEP has {len(given)} settings; give one or two")
    if len(axes) < len(given):
        raise UserError(f"--SWEEP has {next(iter(axes))} twice; give each setting once")
    cells = math.prod(map(len, axes.values()))
    if cells > CELLS:
        raise UserError(f"--SWEEP asks for {cells} images; give at most {CELLS}")
    return axes


def swept_options(axes: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """Return the names of the options whose values a sweep gives."""
    return {_option_of(name) for name, _ in axes}


def _option_of(name: str) -> str:
    key = name.replace("-", "_").upper()
    return ALIASES.get(key, key)


def _axis_values(given: tuple[str, tuple[str, ...]]) -> tuple[str, list[Any]]:
    """Return a setting's name in Python, and its values."""
    name, texts = given
    key = _option_of(name)
    known = {option.name: option for option in options.SAMPLING}
    if key == "SEED":
        if not all(text.isdecimal() for text in texts):
            raise UserError(f"--SWEEP seed={','.join(texts)}: give whole numbers of at least 0")
        return "seed", [int(text) for text in texts]
    if key not in known:
        names = ", ".join(["seed", *(option.lower() for option in known)])
        raise UserError(f"--SWEEP {name}: there is no such setting (valid: {names})")
    return str(known[key].path[-1]), [known[key].parse(text) for text in texts]
