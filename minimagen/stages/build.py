"""From the configuration of a cascade to its stages: the one place that knows their kinds."""

from collections.abc import Sequence
from typing import Any

import torch

from minimagen.config import DiffusionConfig, DistilledConfig, ImagenConfig, Size
from minimagen.draws import derive_seed
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.distilled import DistilledStage
from minimagen.stages.stage import Stage


def build_stages(config: ImagenConfig, text_embed_dim: int, seed: int) -> list[DiffusionStage]:
    """Return all stages with fresh weights; those of stage i depend on (seed, i) only."""
    stages, sizes = [], config.image_sizes
    for i, stage in enumerate(config.stages):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, i, "weights"))
            low_res_size = sizes[i - 1] if i else None
            stages.append(build(i, stage, sizes[i], low_res_size, text_embed_dim))
    return stages


def teach(stages: Sequence[Stage[Any]], teachers: Sequence[Stage[Any]], to: torch.device) -> None:
    """Give every stage its teacher's weights; a distilled stage then learns from it, on ``to``."""
    for stage, teacher in zip(stages, teachers, strict=True):
        stage.load_state_dict(teacher.state_dict())
        if isinstance(stage, DistilledStage) and isinstance(teacher, DiffusionStage):
            stage.learn_from(teacher.to(to))


def build(
    index: int,
    config: DiffusionConfig | DistilledConfig,
    size: Size,
    low_res_size: Size | None,
    text_embed_dim: int,
) -> DiffusionStage:
    """Return a stage with fresh weights.

    Args:
        index: Its place in the cascade, from 0.
        config: Its kind and everything else.
        size: (height, width) of its images.
        low_res_size: That of the stage before; None for the first stage.
        text_embed_dim: Width of the text embeddings.
    """
    if isinstance(config, DistilledConfig):
        return DistilledStage(index, config, size, low_res_size, text_embed_dim)
    return DiffusionStage(index, config, size, low_res_size, text_embed_dim)
