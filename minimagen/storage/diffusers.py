"""Models in diffusers' format as cascades: Stable Diffusion 1 and 2, DeepFloyd IF.

A folder, or several with commas between them (IF I and IF II), is recognized by model_index.json.
Its parameters are written as ours, into the cache; its weights stay where they are.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minimagen.errors import UserError
from minimagen.storage.cache import cache_folder
from minimagen.storage.files import read_json, write_json
from minimagen.storage.hub import is_on_hub, located

INDEX = "model_index.json"
LATENT, BASE, ENLARGING = "StableDiffusionPipeline", "IFPipeline", "IFSuperResolutionPipeline"
KNOWN = {
    LATENT: LATENT,
    "StableDiffusionImg2ImgPipeline": LATENT,
    BASE: BASE,
    "IFImg2ImgPipeline": BASE,
    ENLARGING: ENLARGING,
    "IFImg2ImgSuperResolutionPipeline": ENLARGING,
}
"""What is read, by the pipeline that a folder names."""
OTHERS = {
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux": "Flux",
    "PixArt": "PixArt",
    "Kandinsky": "Kandinsky",
    "StableDiffusionInpaint": "Stable Diffusion for inpainting",
    "StableDiffusionUpscale": "Stable Diffusion's upscaler",
}
"""What is known and not read, by how the pipeline's name begins."""
READ = "Stable Diffusion 1 and 2 and DeepFloyd IF are read"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
WEIGHTS = "diffusion_pytorch_model"
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}
FILES = re.compile(r"diffusion_pytorch_model(-\d{5}-of-\d{5})?\.safetensors")
"""Of the network; others are copies in half precision (fp16) or without an average (non_ema)."""
LEADING = ("DDIM", "DDPM", "PNDM", "LCM", "TCD")
"""Schedulers whose times are ``leading`` where their file does not say it; else ``linspace``."""
ENDS_CLEAN = {"PNDMScheduler": False}
"""Whether DDIM's last step ends without noise, where a scheduler's file does not say it."""
SAMPLING: dict[str, dict[str, Any]] = {
    LATENT: {
        "guidance_scale": 7.5,
        "timesteps": 25,
        "spacing": "trailing",  # leading, its own, begins below the noisiest level
        "thresholding": "none",
    },
    BASE: {"guidance_scale": 7.0, "timesteps": 50, "dynamic_thresholding_percentile": 0.95},
    ENLARGING: {"guidance_scale": 4.0, "timesteps": 25, "dynamic_thresholding_percentile": 0.95},
}
NOISE_LEVEL = 250  # of the 1000 of the image that IF II enlarges
LEARNER = {"optimizer": "adamw", "optim_lr": 1e-5, "weight_decay": 0.01, "betas": [0.9, 0.999]}
TRAINING = {"batch_size": 4, "steps": 1000, "learners": [LEARNER]}
"""Of fine-tuning, where nothing else is typed."""


def imported(path: str | Path) -> Path | None:
    """Return a folder with the parameters of a model of diffusers'; None for something else.

    Args:
        path: A folder, a hub id, or several with commas between them.

    Raises:
        UserError: It is a file of weights, a part of a model, or a model that is not read.
    """
    _refuse_files(Path(path))
    names = [str(path)] if Path(path).exists() else [part.strip() for part in str(path).split(",")]
    if len(names) == 1 and not Path(path).is_dir() and not is_on_hub(path):
        return None
    folders = [located(name) for name in names]
    if len(names) == 1 and not (folders[0] / INDEX).is_file():
        _refuse_parts(folders[0])
        return None
    models = [_model(name, folder) for name, folder in zip(names, folders, strict=True)]
    return _written(_parameters(models))


def stage_values(name: str) -> dict[str, Any]:
    """Return the parameters of the stage that a model is: a folder, or a hub id.

    Raises:
        UserError: There is none, or it is not read.
    """
    return _model(name, located(name)).stage()


def names_model(path: Path) -> bool:
    """Return whether a file of parameters names a model, whose weights its stage then has."""
    try:
        return _has_model(read_json(path))
    except UserError:  # a damaged file, which is an error where it is used
        return False


def _has_model(stage: Any) -> bool:
    return isinstance(stage, dict) and isinstance(stage.get("model"), str)


def completed(stage: Any) -> Any:
    """Return a stage's parameters with those of the model of diffusers' that it names."""
    if not isinstance(stage, dict) or stage.get("kind") != "diffusers" or "unet" in stage:
        return stage
    if not _has_model(stage):
        raise UserError("a stage of kind diffusers needs a `model`: a folder, or a hub id")
    values = stage_values(stage["model"])
    for key in stage.keys() - {"model"}:  # the model's own is absolute
        both = isinstance(stage[key], dict) and isinstance(values.get(key), dict)
        values[key] = values[key] | stage[key] if both else stage[key]
    return values


def weight_files(name: str) -> list[Path]:
    """Return the files of the network's weights of a model."""
    return _weights(located(name) / "unet")


def _weights(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if FILES.fullmatch(path.name))


class _Model:
    """One folder of diffusers'.

    Args:
        name: What the user calls it; a folder's absolute path, or a hub id.
        folder: Where it is.
        kind: Its pipeline.
    """

    def __init__(self, name: str, folder: Path, kind: str) -> None:
        self.name, self.folder, self.kind = name, folder, kind
        self.unet = self._config("unet", "config.json")

    def stage(self) -> dict[str, Any]:
        """Return the parameters of the stage."""
        scheduler = self._config("scheduler", "scheduler_config.json")
        predicted = scheduler.get("prediction_type", "epsilon")
        if predicted not in PREDICTIONS:
            raise UserError(
                f"{self.folder / 'scheduler'}: prediction_type {predicted!r} is none of "
                f"{', '.join(PREDICTIONS)}"
            )
        prediction = PREDICTIONS[predicted]
        known = {key: value for key, value in self.unet.items() if not key.startswith("_")}
        values: dict[str, Any] = {
            "kind": "diffusers",
            "model": self.name,
            "unet": known,
            "schedule": _betas(scheduler) | _times(scheduler),
            "autoencoder": self.name if self.kind == LATENT else None,
            "prediction": prediction,
            "loss": {"space": prediction},
            "sampling": dict(SAMPLING[self.kind]),
        }
        if self.kind == ENLARGING:
            noising = self._config("image_noising_scheduler", "scheduler_config.json")
            values["aug_schedule"] = _betas(noising)
            values["sampling"]["aug_level"] = (NOISE_LEVEL + 1) / values["aug_schedule"].get(
                "num_train_timesteps", 1000
            )
        return values

    @property
    def size(self) -> list[int]:
        """Return the height and width of its images."""
        given = self.unet.get("sample_size") or 64
        sides = [int(side) for side in (given if isinstance(given, list) else [given, given])]
        if self.kind != LATENT:
            return sides
        blocks = self._config("vae", "config.json").get("block_out_channels", [64])
        return [side * 2 ** (len(blocks) - 1) for side in sides]

    @property
    def has_text(self) -> bool:
        """Return whether it has a text encoder of its own."""
        return (self.folder / "text_encoder" / "config.json").is_file()

    def _config(self, part: str, file: str) -> dict[str, Any]:
        path = self.folder / part / file
        if not path.is_file():
            raise UserError(f"{self.folder} has no {part}/{file}; copy the whole model again")
        values = read_json(path)
        if not isinstance(values, dict):
            raise UserError(f"{path} must be a JSON object; copy it again")
        return values


def _model(name: str, folder: Path) -> _Model:
    """Return the model in a folder; a UserError if it is not one that is read."""
    if not (folder / INDEX).is_file():
        _refuse_parts(folder)
        raise UserError(f"{folder} has no {INDEX}: it is no model of diffusers'; {READ}")
    index = read_json(folder / INDEX)
    pipeline = str(index.get("_class_name")) if isinstance(index, dict) else "None"
    if pipeline not in KNOWN:
        called = [v for k, v in OTHERS.items() if pipeline.startswith(k)]
        what = f"{called[-1]} ({pipeline})" if called else repr(pipeline)
        raise UserError(f"{folder} is {what}, which is not read; {READ}")
    model = _Model(name if is_on_hub(name) else str(folder.absolute()), folder, KNOWN[pipeline])
    if model.kind == LATENT and model.unet.get("in_channels", 4) != model.unet.get(
        "out_channels", 4
    ):
        raise UserError(f"{folder} sees more than latents (inpainting?), which is not read; {READ}")
    _check_weights(folder / "unet")
    return model


def _check_weights(folder: Path) -> None:
    """Raise a UserError unless a folder has safetensors."""
    if _weights(folder):
        return
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        raise UserError(f"{folder / others[0]} is a variant; name it {WEIGHTS}.safetensors")
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if not pickles:
        raise UserError(f"{folder} has no {WEIGHTS}.safetensors; copy it from the model's source")
    raise UserError(
        f"{folder / pickles[0]} is a pickle, which can run code and is not read; convert it: load "
        "the model with diffusers where you trust it, and type save_pretrained(FOLDER, "
        "safe_serialization=True)"
    )


def _refuse_files(path: Path) -> None:
    """Raise a UserError for a single file of weights."""
    if path.is_dir():
        return
    if path.suffix in PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run code and is not read; convert it to a folder of "
            "diffusers' where you trust it: StableDiffusionPipeline.from_single_file(FILE)"
            ".save_pretrained(FOLDER), and give FOLDER"
        )
    if path.suffix == ".safetensors":
        raise UserError(
            f"{path} is one file; make a folder of diffusers' of it: "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER); give FOLDER"
        )


def _refuse_parts(folder: Path) -> None:
    """Raise a UserError for a folder that is a part of a model, or one of another library."""
    if not (folder / "config.json").is_file():
        return
    values = read_json(folder / "config.json")
    kind = values.get("_class_name") or values.get("model_type") if isinstance(values, dict) else ""
    whole = folder.absolute().parent
    hint = f"give {whole}" if (whole / INDEX).is_file() else f"give a folder with {INDEX}"
    raise UserError(f"{folder} is one network ({kind}), no whole model: {hint}")


def _betas(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    keys = (
        "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas",
        "rescale_betas_zero_snr",
    )  # fmt: skip
    return {key: scheduler[key] for key in keys if scheduler.get(key) is not None}


def _times(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("timestep_spacing", "steps_offset", "set_alpha_to_one")
    own = {key: scheduler[key] for key in keys if scheduler.get(key) is not None}
    kind = str(scheduler.get("_class_name"))
    spacing = "leading" if kind.startswith(LEADING) else "linspace"
    return {"set_alpha_to_one": ENDS_CLEAN.get(kind, True), "timestep_spacing": spacing} | own


def _parameters(models: Sequence[_Model]) -> dict[str, Any]:
    """Return the files of parameters of a cascade, by name."""
    texts = [model.name for model in models if model.has_text]
    if models[0].kind == ENLARGING:
        raise UserError(
            f"{models[0].folder} enlarges images; give the model that makes them before it, such "
            "as IF-I,IF-II"
        )
    if not texts:
        raise UserError(f"{models[0].folder} has no text_encoder; copy the whole model again")
    imagen = {
        "image_sizes": [model.size for model in models],
        "text_encoder_name": f"diffusers:{texts[0]}",
        "max_num_words": 77,
    }
    stages = {f"unet_{i}.json": model.stage() for i, model in enumerate(models)}
    return {"imagen.json": imagen, **stages, "training.json": TRAINING}


def _written(files: Mapping[str, Any]) -> Path:
    """Return a folder of the cache with these files; its name is a hash of them."""
    digest = hashlib.blake2b(json.dumps(files, sort_keys=True).encode(), digest_size=12)
    folder = cache_folder(f"diffusers/{digest.hexdigest()}")
    for name, values in files.items():
        if not (folder / name).is_file():  # other processes may be writing the same
            write_json(folder / name, values, shared=True)
    return folder
