"""From the configuration of a cascade to its stages: the one place that knows their kinds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from minimagen.autoencoders.autoencoder import Autoencoder
from minimagen.autoencoders.build import build as build_autoencoder
from minimagen.autoencoders.build import build_autoencoders
from minimagen.autoencoders.discrete import DiscreteAutoencoder
from minimagen.autoencoders.training import TrainedAutoencoder
from minimagen.config import (
    DiffusersConfig,
    DistilledConfig,
    ImagenConfig,
    Size,
    StageConfig,
    TokenConfig,
)
from minimagen.draws import seeded
from minimagen.errors import UserError
from minimagen.stages.diffusers import DiffusersStage
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.distilled import DistilledStage
from minimagen.stages.stage import Stage
from minimagen.stages.tokens import TokenStage
from minimagen.storage.hub import located
from minimagen.storage.pretrained import Part
from minimagen.text.build import build as build_text_encoder
from minimagen.text.build import build_clip
from minimagen.text.encoding import TextEncoder


class Parts(NamedTuple):
    """All that a cascade is made of."""

    text_encoder: TextEncoder
    frozen: list[Part]
    """What is trained before the stages, in order: CLIP, autoencoders."""
    stages: list[Stage[Any]]


def build_parts(
    config: ImagenConfig,
    seed: int,
    text_encoder: TextEncoder | None = None,
    stages: Sequence[Stage[Any]] | None = None,
) -> Parts:
    """Return the parts of a cascade, with fresh weights where nothing is given."""
    clip, autoencoders = build_clip(config, seed), build_autoencoders(config, seed)
    if text_encoder is None:
        name, most = config.text_encoder_name, config.max_num_words
        text_encoder = build_text_encoder(name, most, config.labels, clip)
    if stages is None:
        width = text_encoder.embed_dim if config.stages else 0
        stages = build_stages(config, width, seed, autoencoders)
    return Parts(text_encoder, [*filter(None, [clip]), *autoencoders], list(stages))


def build_stages(
    config: ImagenConfig,
    text_embed_dim: int,
    seed: int,
    autoencoders: Sequence[TrainedAutoencoder] = (),
) -> list[Stage[Any]]:
    """Return all stages with fresh weights; those of stage i depend on (seed, i) only.

    ``autoencoders`` are those of the cascade.
    """
    stages: list[Stage[Any]] = []
    sizes = config.image_sizes
    coders = [build_autoencoder(stage.autoencoder, autoencoders) for stage in config.stages]
    for i, stage in enumerate(config.stages):
        with seeded(seed, i, "weights"):
            low_res_size = sizes[i - 1] if i else None
            before = coders[i - 1] if stage.reconstructed_low_res else None
            parts = (low_res_size, text_embed_dim, coders[i], before)
            stages.append(build(i, stage, sizes[i], *parts))
    return stages


def teach(stages: Sequence[Stage[Any]], teachers: Sequence[Stage[Any]], to: torch.device) -> None:
    """Give every stage its teacher's weights; a distilled stage then learns from it, on ``to``."""
    for stage, teacher in zip(stages, teachers, strict=True):
        stage.load_state_dict(teacher.state_dict())
        if isinstance(stage, DistilledStage) and isinstance(teacher, DiffusionStage):
            stage.learn_from(teacher.to(to))


def build(
    index: int,
    config: StageConfig,
    size: Size,
    low_res_size: Size | None,
    text_embed_dim: int,
    autoencoder: Autoencoder | None = None,
    low_res_autoencoder: Autoencoder | None = None,
) -> DiffusionStage | TokenStage:
    """Return a stage with fresh weights.

    Args:
        index: Its place in the cascade, from 0.
        config: Its kind and everything else.
        size: (height, width) of its images.
        low_res_size: That of the stage before; None for the first stage.
        text_embed_dim: Width of the text embeddings.
        autoencoder: Between images and what is denoised; the pixels themselves by default.
        low_res_autoencoder: What the low-resolution images of its training go through.
    """
    if isinstance(config, TokenConfig):
        if not isinstance(autoencoder, DiscreteAutoencoder):
            raise UserError(
                f"stage {index} predicts tokens, and its autoencoder {config.autoencoder!r} has "
                "none: it must be of kind fsq or gumbel"
            )
        return TokenStage(index, config, size, text_embed_dim, autoencoder)
    if isinstance(autoencoder, DiscreteAutoencoder) and autoencoder.config.color_codes:
        raise UserError(
            f"stage {index} denoises latents, but its autoencoder has color_codes, which stages of "
            "tokens read"
        )
    parts = (size, low_res_size, text_embed_dim, autoencoder, low_res_autoencoder)
    if isinstance(config, DiffusersConfig):
        folder = None if config.model is None else located(config.model) / "unet"
        return DiffusersStage(index, config, *parts, folder)
    if isinstance(config, DistilledConfig):
        return DistilledStage(index, config, *parts)
    return DiffusionStage(index, config, *parts)
