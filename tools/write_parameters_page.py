"""Write docs/parameters.md: every key of every JSON file, from the configuration models.

python tools/write_parameters_page.py
"""

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from minimagen.cli.arguments import KeyPath
from minimagen.cli.asked import Asked
from minimagen.cli.flags import TRAIN
from minimagen.cli.options import CONFIGURED, IMG_SIDE_LEN
from minimagen.config import (
    AutoencoderConfig,
    ClipConfig,
    DataConfig,
    ImagenConfig,
    TrainingConfig,
)
from minimagen.config.diffusers import DiffusersConfig
from minimagen.config.stages import DiffusionConfig, DistilledConfig, TokenConfig
from minimagen.storage.environment import Environment
from minimagen.storage.figures import Record
from minimagen.storage.metadata import Generation

PAGE = Path(__file__).parents[1] / "docs" / "parameters.md"
Model = type[BaseModel]
FILES: dict[str, tuple[Model, KeyPath, str]] = {
    "imagen.json": (ImagenConfig, ("imagen",), "The cascade; its parts have files of their own."),
    "unet_i.json": (
        DiffusionConfig, ("imagen", "stages", "*"), "A diffusion stage, one file for each.",
    ),
    "unet_i.json, distilled": (
        DistilledConfig, ("imagen", "stages", "*"),
        "A stage of kind `distilled`; the keys beside those of a diffusion stage.",
    ),
    "unet_i.json, diffusers": (
        DiffusersConfig, ("imagen", "stages", "*"),
        "A stage of kind `diffusers`; the keys beside those of a diffusion stage. With `model` "
        "alone the model's files say the others.",
    ),
    "gpt_i.json": (TokenConfig, ("imagen", "stages", "*"), "A first stage of tokens."),
    "autoencoder_i.json": (AutoencoderConfig, ("imagen", "autoencoders", "*"), "An autoencoder."),
    "clip.json": (ClipConfig, ("imagen", "clip"), "A CLIP."),
    "training.json": (TrainingConfig, ("training",), "How the cascade trains."),
    "data.json": (DataConfig, ("data",), "What it trains on."),
    "environment.json": (
        Environment, ("environment",),
        "In what a training directory was made; training writes it, and nothing reads it.",
    ),
    "evaluation.json": (Record, ("evaluation",), "What `python -m minimagen evaluate` found."),
    "request.json": (
        Asked, ("request",),
        "What `inference.py` was asked for, in its output directory; `--CONTINUE` reads it.",
    ),
    "images.jsonl": (
        Generation, ("images",),
        "A line for each image in `generated_images/`, with its `file_name`; the PNG carries the "
        "same.",
    ),
}  # fmt: skip
ELSEWHERE = {"stages", "clip", "autoencoders"}
"""Fields of imagen.json that are files of their own."""
HEAD = """# Every key of every JSON file

Made by `python tools/write_parameters_page.py` from the configuration models; do not edit.

A parameters directory (`--PARAMETERS`, and `parameters/` of a training directory) has the files
below; `i` counts stages and autoencoders from 0. A key that is left out has its default; an unknown
key is an error that names the nearest one. Lists have one entry for each learner: CLIP,
autoencoders, stages, in this order. A flag changes the key for one run, of all stages, or with
commas of each stage (`--GUIDANCE_SCALE 5,1`).

The last four are written beside results: nothing in them is typed.
"""
ROW = "| `{}` | {} | {} | {} | {} | {} |"


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for title, (model, path, what) in FILES.items():
        parts += [f"\n## {title}\n\n{what}\n\n| key | type | default | valid | flag | what it is |"]
        parts += ["|---|---|---|---|---|---|", *rows(model, path)]
    return "\n".join(parts) + "\n"


def rows(model: Model, path: KeyPath, prefix: str = "") -> Iterator[str]:
    """Yield a row for each key of ``model`` and of the objects inside it."""
    base = DiffusionConfig.model_fields if issubclass(model, DiffusionConfig) else {}
    inherited = {} if model is DiffusionConfig else base
    for name, field in model.model_fields.items():
        if name in inherited and field.annotation == inherited[name].annotation:
            continue
        if model is ImagenConfig and name in ELSEWHERE:
            continue
        key, place = f"{prefix}{name}", (*path, name)
        inner = [part for part in models(field.annotation) if part is not model]
        several = "[]" if inner and "tuple" in str(field.annotation) else ""
        yield ROW.format(
            key + several,
            kind(field.annotation),
            default(field, bool(inner)),
            limits(field) or choices(field.annotation) or "",
            flag(place),
            described(field, inner),
        )
        for part in inner:
            yield from rows(part, (*place, "*") if several else place, f"{key}{several}.")


def described(field: FieldInfo, inner: list[Model]) -> str:
    """Return what a key is: its docstring, or that of the object it holds."""
    text = field.description or (inner[0].__doc__ or "" if inner else "")
    first = text if field.description else text.split("\n\n")[0]
    return " ".join(first.split()).replace("``", "`").replace("|", "\\|")


def models(annotation: Any) -> list[Model]:
    """Return the configurations inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models(part)]


def kind(annotation: Any) -> str:
    """Return the type of a value, as JSON has it."""
    if annotation is Any or get_origin(annotation) is Literal:
        return "string" if annotation is not Any else "any"
    if get_origin(annotation) is Annotated:
        return kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(kind, get_args(annotation))))
    if get_origin(annotation) is tuple:
        inside = [part for part in get_args(annotation) if part is not ...]
        return f"list of {kind(inside[0])}"
    if get_origin(annotation) is dict:
        return "object"
    names = {bool: "bool", int: "integer", float: "number", str: "string", type(None): "null"}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "object"
    return names.get(annotation, "string")


def default(field: FieldInfo, is_object: bool) -> str:
    """Return the default of a key as JSON has it."""
    if field.default is PydanticUndefined:
        return "*needed*"
    value = field.default
    if isinstance(value, BaseModel) or (is_object and value is not None):
        if isinstance(value, BaseModel):
            return "the defaults"
        return "`{}`" if value == {} else "`[]`"
    spelled = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return f"`{spelled[value]}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`".replace("``", "empty")


def limits(field: FieldInfo) -> str:
    """Return the valid range of a number, of one value where there are several."""
    found = [*field.metadata, *inner_metadata(field.annotation)]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limit = {}
    for each in found:
        for constraint in (each, *getattr(each, "metadata", ())):
            for name, sign in signs.items():
                if (value := getattr(constraint, name, None)) is not None:
                    limit[sign] = f"{sign} {value:g}"
    return ", ".join(limit.values())


def inner_metadata(annotation: Any) -> Iterator[Any]:
    """Yield the constraints inside an annotation, not those of other configurations."""
    if get_origin(annotation) is Annotated:
        yield from get_args(annotation)[1:]
    for part in get_args(annotation):
        yield from inner_metadata(part)


def choices(annotation: Any) -> str:
    """Return the strings that are valid."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(annotation))
    return ", ".join(filter(None, map(choices, get_args(annotation))))


def flag(path: KeyPath) -> str:
    """Return the flag that sets the key at ``path``."""
    if path == ("imagen", "image_sizes"):
        return f"`--{IMG_SIDE_LEN.name}`"
    if path == ("training", "sample_captions"):
        return next(f"`--{o.name}`" for o in TRAIN if o.name == "SAMPLE_CAPTIONS")
    found = [f"`--{option.name}`" for option in CONFIGURED.values() if option.path == path]
    return re.sub(r"\s+", " ", "".join(found[:1]))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
