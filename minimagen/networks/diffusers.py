"""A U-Net of diffusers' (Stable Diffusion, DeepFloyd IF) behind the interface of ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minimagen.config import DiffusersUNetConfig
from minimagen.errors import UserError
from minimagen.networks.network import DenoisingNetwork

INSTALL = "diffusers is not installed: type pip install 'minimagen-cascade[pretrained]'"


@dataclass(frozen=True)
class CaptionStates:
    """Embeddings [b n d] of captions, those of no caption included."""

    embeds: Tensor

    def rows(self, count: int) -> CaptionStates:
        """Return those of the first ``count`` captions."""
        return CaptionStates(self.embeds[:count])


def unet_class() -> Any:
    """Return diffusers' class; a UserError where diffusers is missing."""
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        raise UserError(INSTALL) from None
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # our own errors say what matters
    return UNet2DConditionModel


def build_unet(config: DiffusersUNetConfig, folder: Path | None) -> Any:
    """Return a network with the weights of a folder, or fresh ones.

    Args:
        config: What it is built from; the folder's own.
        folder: Has ``config.json`` and safetensors.

    Raises:
        UserError: diffusers is missing, or the folder's files are damaged or of another network.
    """
    kind = unet_class()
    try:
        if folder is None:
            values = config.model_dump(mode="json", exclude={"_class_name", "_diffusers_version"})
            return kind.from_config(values)
        network, report = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"the U-Net in {folder or 'the parameters'} cannot be built: {why}"
        ) from None
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"the weights in {folder} lack {missing[0]!r}; copy them again")
    return network


class DiffusersUNet(DenoisingNetwork):
    """Takes the number of a time where ours takes the log-SNR, and the empty caption's embedding
    where ours has a learned null token.

    Args:
        config: What diffusers builds the network from.
        text_embed_dim: Width of the embeddings, which are in two halves (see ``text/pipeline.py``).
        folder: Has its weights; fresh ones by default.

    Attributes:
        empty: Embedding of the caption "", [1 n d]; set before the network is used without caption.
    """

    empty: Tensor | None

    def __init__(
        self, config: DiffusersUNetConfig, text_embed_dim: int, folder: Path | None = None
    ) -> None:
        super().__init__()
        if text_embed_dim != 2 * config.text_width:
            raise UserError(
                f"the U-Net reads embeddings of {config.text_width} channels, in two halves; the "
                f"text encoder gives {text_embed_dim} channels: name the text encoder of the same "
                "model, diffusers:FOLDER, as `text_encoder_name`"
            )
        self.config = config
        self.network: Any = build_unet(config, folder)
        self.register_buffer("empty", None, persistent=False)

    def encode_text(self, embeds: Tensor, mask: Tensor, drop: Tensor) -> CaptionStates:
        """Return embeddings [b n d]; where ``drop`` [b], those of the empty caption.

        The model attends to padding: it was trained so. What our batches add behind it is cut off.
        """
        if self.empty is None:
            raise UserError("the empty caption is not encoded yet: call `encode_own` of the stage")
        empty = self.empty.to(embeds)
        chosen = torch.where(drop[:, None, None], empty, embeds[:, : empty.shape[1]])
        rounded, rest = chosen.chunk(2, dim=-1)
        return CaptionStates(rounded + rest)

    def forward(
        self,
        x: Tensor,
        number: Tensor,
        captions: CaptionStates,
        low_res: Tensor | None = None,
        aug_number: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction, like ``x``; the channels of a learned variance are left out.

        Args:
            x: Noised images or latents [b c h w].
            number: Of their times, float [b], whole or not.
            captions: From ``encode_text``.
            low_res: Noised images to enlarge, [b c h w].
            aug_number: Of their times, float [b].
        """
        seen = x if low_res is None else torch.cat([x, low_res.to(x)], dim=1)
        output = self.network(
            seen, number, captions.embeds, class_labels=aug_number, return_dict=False
        )
        return output[0][:, : self.config.channels]

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Return none: pretrained weights go on with AdamW."""
        return []

    def shardable(self) -> Sequence[nn.Module]:
        """Return the levels of the network."""
        network = self.network
        return [*network.down_blocks, network.mid_block, *network.up_blocks]

    def recompute_activations(self, on: bool = True) -> None:
        """Turn activation checkpointing on or off."""
        if on:
            self.network.enable_gradient_checkpointing()
        else:
            self.network.disable_gradient_checkpointing()

    def compile_blocks(self, on: bool = True) -> None:
        """Do nothing: the network runs as diffusers has it."""
