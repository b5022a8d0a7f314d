"""The contract of one link of the cascade: from a condition to images, and its training loss.

The trainer asks for what a ``Learner`` is, the cascade for ``settings`` and ``sample``. A stage's
contract is images, so any kind of stage can be followed by super-resolution stages.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from minimagen.checked import per_stage
from minimagen.config import ImagenConfig, Size
from minimagen.device import lent
from minimagen.diffusion.samplers import Callback
from minimagen.draws import Noise
from minimagen.given import Given
from minimagen.learner import CaptionReader
from minimagen.storage.pretrained import Identified, Identity, Named
from minimagen.text.encoded import Encoded
from minimagen.text.encoding import TextEncoder, TextEncoding, padded

Sampling = TypeVar("Sampling")
"""The sampling settings of a kind of stage."""


@dataclass(frozen=True)
class Condition:
    """What a stage samples from.

    Attributes:
        text_embeds: float [b n d].
        text_mask: bool [b n], True = real token.
        low_res: The previous stage's images in model space [b 3 h w]; None for the first stage.
        size: (height, width) of the images to sample, where they are not the stage's own.
        negative: What guidance leads away from, instead of from no caption.
        given: What is edited, where something is.
    """

    text_embeds: Tensor
    text_mask: Tensor
    low_res: Tensor | None = None
    size: Size | None = None
    negative: TextEncoding | None = None
    given: Given | None = None

    def text(self, copies: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings, mask and which rows are without caption, for guidance.

        Args:
            copies: 1, or 2: then the second copy of the rows has the negative captions, or none.
        """
        return guidance_text(self.text_embeds, self.text_mask, copies, self.negative)


def guidance_text(
    embeds: Tensor, mask: Tensor, copies: int, negative: TextEncoding | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings, mask and dropped rows of ``copies`` of a batch; see ``Condition.text``."""
    rows = len(embeds)
    if copies == 1 or negative is None:
        dropped = torch.arange(copies * rows, device=embeds.device) >= rows
        return embeds.repeat(copies, 1, 1), mask.repeat(copies, 1), dropped
    length = max(embeds.shape[1], negative.embeds.shape[1])
    both = [padded(TextEncoding(embeds, mask), length), padded(negative, length)]
    dropped = torch.zeros(2 * rows, dtype=torch.bool, device=embeds.device)
    return torch.cat([each.embeds for each in both]), torch.cat([e.mask for e in both]), dropped


class Start(NamedTuple):
    """Where sampling begins instead of at pure noise: noised images and their time."""

    x_t: Tensor
    """[b c h w], what the stage's network sees."""
    t: float
    """In (0, 1]."""


class Stage(Identified, Generic[Sampling]):
    """One link of the cascade."""

    def identity(self, config: ImagenConfig, text_encoder: Named) -> Identity:
        """Return what its weights depend on, as a stage of this cascade."""
        index = config.learner_names.index(self.name) - config.first_stage
        return Identity.of_stage(config, index, text_encoder, self.autoencoder_fingerprint)

    @property
    def autoencoder_fingerprint(self) -> str | None:
        """Return which autoencoder it learns with; None where it learns with none."""
        return None

    @abstractmethod
    def settings(self, **changes: Any) -> Sampling:
        """Return the stage's sampling settings, with ``changes`` to some of them.

        Raises:
            UserError: There is no such setting, or a value is not valid.
        """

    def as_sampled(self, low_res: Tensor) -> Tensor:
        """Return low-resolution images [b 3 h w] as the stage is given them in sampling."""
        return low_res

    def encode_own(self, encoder: CaptionReader) -> None:
        """Encode the captions that it needs beside those of its batches; by default there are none.

        Called before it samples or trains; what is encoded already stays.
        """

    def preview(self, estimate: Tensor) -> Tensor:
        """Return the images, [b 3 h w] in [-1, 1], of what the callback of ``sample`` is given."""
        return estimate

    def notes(self) -> list[str]:
        """Return lines for the user on what was sampled since the last call."""
        return []

    @property
    def entry_points(self) -> Sequence[str]:
        """Sampling begins in it too; see ``Learner``."""
        return (*super().entry_points, "sample")

    @abstractmethod
    def sample(
        self,
        condition: Condition,
        noise: Noise,
        sampling: Sampling,
        start: Start | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return one image per row of ``condition``: model space, [b 3 h w] in [-1, 1].

        Args:
            condition: Captions and, for super-resolution, images of the stage before.
            noise: All randomness: each image's numbers depend on its own seed alone.
            sampling: From ``settings``.
            start: Where to begin, instead of at noise.
            callback: Called after each step.
        """


def encode_own(stages: Sequence[Stage[Any]], encoder: CaptionReader) -> None:
    """Let each stage encode what it needs beside the captions, such as the empty one."""
    for stage in stages:
        stage.encode_own(encoder)


def encoder_for(
    encoder: TextEncoder,
    captions: Sequence[str],
    stages: Sequence[Stage[Any]],
    device: torch.device | None,
    home: torch.device,
) -> CaptionReader:
    """Return what encodes ``captions``: the encoder, at ``home``, or what it made on ``device``.

    A device that stages visit one at a time has no place for an encoder beside them.
    """
    with lent(encoder, device, home):
        encode_own(stages, encoder)
        return encoder if device is None else Encoded(encoder, captions)


def settings_of(stages: Sequence[Stage[Any]], changes: Mapping[str, Any]) -> list[Any]:
    """Return each stage's sampling settings, with changes for all stages or one each.

    What is given for all is for those that have such a setting.

    Raises:
        UserError: No stage has it, or a value is not valid.
    """
    each = {name: per_stage(name, value, len(stages)) for name, value in changes.items()}
    own: list[dict[str, Any]] = [{} for _ in stages]
    for name, values in each.items():
        having = [hasattr(stage.settings(), name) for stage in stages]
        for_all = any(having) and all(value is values[0] for value in values)
        for change, value, has in zip(own, values, having, strict=True):
            if value is not None and (has or not for_all):
                change[name] = value
    return [stage.settings(**change) for stage, change in zip(stages, own, strict=True)]
