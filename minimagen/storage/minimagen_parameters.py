"""Parameters written by AssemblyAI's MinImagen, read as ours.

MinImagen writes ``unet_<N>_params_<stamp>.json``, ``imagen_params_<stamp>.json`` and
``training_parameters_<stamp>.txt``. The shapes of the networks and the settings of the run are
kept; objective and noise schedule become ours. The tables below are the whole mapping, key by
key; docs/minimagen_compatibility.md explains it.
"""

import ast
import logging
import re
from pathlib import Path
from typing import Any

from minimagen.errors import UserError, did_you_mean
from minimagen.storage.files import read_json, read_lines

log = logging.getLogger(__name__)

SAME_IN_UNET = ["dim", "dim_mults", "channels", "cond_dim", "num_resnet_blocks", "layer_attns"]
SAME_IN_UNET += ["layer_cross_attns", "attn_heads", "memory_efficient", "attend_at_middle"]
UNET_KEYS: dict[str, str | None] = {
    **{key: f"unet.{key}" for key in SAME_IN_UNET},
    **dict.fromkeys(("channels_out", "text_embed_dim", "lowres_cond")),
}
"""Key of ``unet_<N>_params`` -> place in our ``unet_<N>.json``; None = no meaning here."""

IGNORED_IN_IMAGEN = ("text_embed_dim", "channels", "loss_type", "auto_normalize_img")
IMAGEN_KEYS: dict[str, str | None] = {
    "image_sizes": "imagen.image_sizes",
    "text_encoder_name": "imagen.text_encoder_name",
    "timesteps": "stage.sampling.timesteps",
    "cond_drop_prob": "stage.cond_drop_prob",
    "dynamic_thresholding_percentile": "stage.sampling.dynamic_thresholding_percentile",
    "lowres_sample_noise_level": "stage.sampling.aug_level",
    **dict.fromkeys((*IGNORED_IN_IMAGEN, "only_train_unet_number")),
}
"""Key of ``imagen_params`` -> place in our imagen.json, or in every ``unet_<N>.json`` (stage)."""

IGNORED_IN_TRAINING = ("PARAMETERS", "IMG_SIDE_LEN", "T5_NAME", "TIMESTEPS", "RESTART_DIRECTORY")
TRAINING_KEYS: dict[str, str | None] = {
    "NUM_WORKERS": "training.num_workers",
    "BATCH_SIZE": "training.batch_size",
    "MAX_NUM_WORDS": "imagen.max_num_words",
    "EPOCHS": "training.epochs",
    "TRAIN_VALID_FRAC": "data.train_valid_frac",
    "OPTIM_LR": "training.learners.optim_lr",
    "ACCUM_ITER": "training.accum_iter",
    "CHCKPT_NUM": "training.chckpt_num",
    "VALID_NUM": "data.valid_num",
    **dict.fromkeys((*IGNORED_IN_TRAINING, "TESTING", "timestamp")),
}
"""Key of ``training_parameters`` -> place in our imagen.json, training.json or data.json."""

TRAINING_DEFAULTS = {"BATCH_SIZE": 2, "EPOCHS": 5, "OPTIM_LR": 1e-4}
"""What MinImagen's train.py takes where the file is missing or has None."""

GUIDANCE_SCALE = 3.0  # fixed in MinImagen's inference.py

NOTICE = (
    "{folder} was written by AssemblyAI's MinImagen. Its network shapes, image sizes and run "
    "settings are kept; objective, schedule and sampler become this project's: v-prediction (there "
    "eps), the continuous cosine schedule in every stage, DPM-Solver++ with timesteps as its "
    "steps, guidance 3. Without meaning here, ignored: {ignored}. "
    "See docs/minimagen_compatibility.md."
)


def is_minimagen(folder: Path) -> bool:
    """Return whether ``folder`` holds parameters of MinImagen and none of this project."""
    ours = (folder / "imagen.json").exists()
    return not ours and all(any(folder.glob(f)) for f in ("imagen*.json", "unet_[0-9]*.json"))


def read_minimagen_values(folder: Path) -> dict[str, Any]:
    """Return a MinImagen parameters directory as unchecked values of our configuration.

    What was changed and ignored is logged once.

    Raises:
        UserError: If a file is missing, is not JSON, or holds an unknown key; it names which.
    """
    imagen_file = min(folder.glob("imagen*.json"))
    unets = [_known(read_json(f), UNET_KEYS, f) for f in _unet_files(folder)]
    imagen = _known(read_json(imagen_file), IMAGEN_KEYS, imagen_file)
    run = _read_run(folder)
    stages = [_stage(u, imagen, i, len(unets)) for i, u in enumerate(unets)]
    values: dict[str, Any] = {"imagen": {"stages": stages}, "training": {}, "data": {}}
    _place(values, imagen, {k: v for k, v in IMAGEN_KEYS.items() if v and v.startswith("imagen.")})
    _place(values, _per_optimizer_step(TRAINING_DEFAULTS | _given(run)), TRAINING_KEYS)
    values["training"]["learners"] = [values["training"]["learners"]] * len(unets)
    sizes = values["imagen"].get("image_sizes")
    if isinstance(sizes, int):  # MinImagen takes a bare number for a single U-Net
        values["imagen"]["image_sizes"] = [sizes]
    log.warning(NOTICE.format(folder=folder, ignored=_ignored(unets[0], imagen, run)))
    return values


def _ignored(unet: dict[str, Any], imagen: dict[str, Any], run: dict[str, Any]) -> str:
    """Return the keys without meaning here, file by file."""
    files = {"unet": (unet, UNET_KEYS), "imagen": (imagen, IMAGEN_KEYS)}
    files["training"] = (run, TRAINING_KEYS)
    lists = {
        file: ", ".join(key for key in values if table[key] is None)
        for file, (values, table) in files.items()
    }
    return "; ".join(f"{file}: {keys}" for file, keys in lists.items() if keys) or "nothing"


def _stage(unet: dict[str, Any], imagen: dict[str, Any], i: int, count: int) -> dict[str, Any]:
    """Return the values of our ``unet_<i>.json``."""
    own = {key: _of_stage(key, value, i, count) for key, value in imagen.items()}
    if i == 0:
        own.pop("lowres_sample_noise_level", None)  # the base stage has no low-resolution input
    stage: dict[str, Any] = {"stage": {}, "unet": {}}
    _place(stage, unet, UNET_KEYS)
    _place(stage, own, {k: v for k, v in IMAGEN_KEYS.items() if v and v.startswith("stage.")})
    result = stage["stage"] | {"unet": stage["unet"]}
    result["sampling"] = {"guidance_scale": GUIDANCE_SCALE} | result.get("sampling", {})
    return result


def _of_stage(key: str, value: Any, i: int, count: int) -> Any:
    """Return stage ``i``'s value of a key that MinImagen also takes as a list, one per U-Net."""
    if key == "image_sizes" or not isinstance(value, list):
        return value
    if len(value) != count:
        raise UserError(f"imagen_params: {key} has {len(value)} entries for {count} U-Nets")
    return value[i]


def _place(values: dict[str, Any], given: dict[str, Any], table: dict[str, str | None]) -> None:
    """Put every value of ``given`` that is not null where ``table`` says; null = our default."""
    for key, value in _given(given).items():
        if (target := table.get(key)) is None:
            continue
        *parents, last = target.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _per_optimizer_step(run: dict[str, Any]) -> dict[str, Any]:
    """Return ``run`` counted in optimizer steps; MinImagen counts micro-batches."""
    accum = run.get("ACCUM_ITER", 1)
    counts = (accum, run["BATCH_SIZE"], run.get("CHCKPT_NUM", 1))
    if not all(isinstance(n, int) and n >= 1 for n in counts):
        return run  # the check of the configuration names the wrong one
    changed = {"BATCH_SIZE": run["BATCH_SIZE"] * accum}
    if "CHCKPT_NUM" in run:
        changed["CHCKPT_NUM"] = max(1, run["CHCKPT_NUM"] // accum)
    return run | changed


def _read_run(folder: Path) -> dict[str, Any]:
    """Return the ``--NAME=value`` lines of the first ``training_*.txt``; {} without one."""
    path = min(folder.glob("training_*.txt"), default=None)
    if path is None:
        return {}
    run = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"--(\w+)=(.*)", line.strip())
        if match is None:
            raise UserError(f"{path}, line {number}: {line!r} is not --NAME=value")
        run[match[1]] = _parsed(match[2])
    return _known(run, TRAINING_KEYS, path)


def _parsed(text: str) -> Any:
    """Return the value that Python printed as ``text``, or the text itself where it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _known(values: Any, table: dict[str, str | None], path: Path) -> dict[str, Any]:
    """Return ``values`` after checking that every key is one of MinImagen's."""
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings: it must be a JSON object")
    for key in values:
        if key not in table:
            hint = did_you_mean(key, table)
            raise UserError(f"{path}: unknown key {key!r}{hint} (valid: {', '.join(table)})")
    return values


def _unet_files(folder: Path) -> list[Path]:
    """Return the first file of every U-Net in the order of their numbers: 0, 1, 2 ..."""
    files: dict[int, Path] = {}
    for path in sorted(folder.glob("unet_*.json"), reverse=True):
        if match := re.match(r"unet_(\d+)", path.name):
            files[int(match[1])] = path
    if missing := set(range(max(files) + 1)) - set(files):
        name = f"unet_{min(missing)}_params_*.json"
        raise UserError(f"{folder} has no {name}; the U-Nets count from 0")
    return [files[i] for i in sorted(files)]
