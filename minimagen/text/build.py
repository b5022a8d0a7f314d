"""The one place that makes text encoders, and the CLIP that may be one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minimagen.text.encoding import TextEncoder
from minimagen.text.names import CLIP, DIFFUSERS, LABELS, T5_MINI
from minimagen.text.pretrained import PretrainedEncoder

if TYPE_CHECKING:
    from minimagen.config import ClipConfig, ImagenConfig
    from minimagen.text.clip import Clip


def build(
    name: str, max_num_words: int, labels: Sequence[str] = (), clip: Clip | None = None
) -> TextEncoder:
    """Return the frozen text encoder called ``name``; a pretrained one loads at its first caption.

    Args:
        name: ``t5_mini``, ``minilm_mini``, another short name (``minilm``, ``t5_small`` ...), a hub
            id or a local folder; ``labels``; ``clip``; a training directory that has a CLIP;
            ``diffusers:`` and a model of diffusers'.
        max_num_words: Longest caption in tokens; longer ones are cut.
        labels: What ``labels`` knows.
        clip: What ``clip`` is.

    Raises:
        UserError: No encoder has this name, or ``max_num_words`` is below 1.
    """
    if name.startswith(DIFFUSERS):
        from minimagen.text.pipeline import PipelineEncoder

        return PipelineEncoder(name)
    if name == LABELS:
        from minimagen.text.labels import LabelEncoder

        return LabelEncoder(labels)
    if name == CLIP and clip is not None:
        from minimagen.text.clip_encoder import ClipEncoder

        return ClipEncoder(clip)
    if (Path(name) / "parameters" / "clip.json").is_file():
        from minimagen.text.clip_encoder import ClipEncoder

        return ClipEncoder(load_clip(Path(name)), name)
    return PretrainedEncoder(name, max_num_words)


def build_clip(config: ImagenConfig, seed: int) -> Clip | None:
    """Return the CLIP of a cascade with fresh weights, which depend on ``seed`` only, if any."""
    if config.clip is None:
        return None

    from minimagen.draws import seeded

    with seeded(seed, CLIP, "weights"):
        return fresh_clip(config.clip)


def fresh_clip(config: ClipConfig) -> Clip:
    """Return a CLIP with random weights, and the frozen encoder that it reads captions with."""
    from minimagen.text.clip import Clip

    names = {"locked": config.text.encoder, "sentencepiece": T5_MINI.name}
    name, most = names.get(config.text.kind), config.text.max_length
    return Clip(config, None if name is None else PretrainedEncoder(name, most))


def load_clip(folder: Path) -> Clip:
    """Return the trained CLIP of a training directory, frozen.

    Raises:
        UserError: There is none, or its weights are missing or damaged.
    """
    from minimagen.errors import UserError
    from minimagen.storage.directory import TrainingDirectory, read_imagen_config
    from minimagen.storage.pretrained import find_weights, load_stage

    directory = TrainingDirectory.open(folder)
    config = read_imagen_config(directory.parameters).clip
    if config is None:
        raise UserError(f"{folder} has no CLIP: it needs parameters/clip.json")
    clip = fresh_clip(config)
    load_stage(clip, find_weights(directory, CLIP), clip.own_identity)
    return clip.eval().requires_grad_(False)
