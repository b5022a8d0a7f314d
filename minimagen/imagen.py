"""The page to read first: captions -> text encoder -> base stage -> super-resolution -> images.

    a large red star on blue --> frozen T5 --> [b n d] embeddings
                                                  |        |
                                   noise --> base U-Net    |            32 x 32
                                                  |        |
                                   noise --> super-resolution U-Net     64 x 64 --> image

Imagen (Saharia et al., arXiv 2205.11487): the text encoder is frozen, a base diffusion model makes
a small image from the text, and super-resolution models, which see it noised a little, enlarge it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from minimagen.arguments import (
    Options,
    OutputType,
    captions_of,
    check_call,
    output_of,
    repeated,
    seeds_of,
    shown,
    stages_from,
)
from minimagen.config import ImagenConfig
from minimagen.config.cascade_sizes import sizes_of_ratio
from minimagen.device import autocast, visiting
from minimagen.images import to_pil
from minimagen.stages.build import build_parts
from minimagen.stages.stage import Condition, Stage, encoder_for, settings_of
from minimagen.storage.pretrained import Identified, PartIdentity
from minimagen.storage.sharing import Shared
from minimagen.text.encoding import TextEncoder, encode_batch


class Imagen(Shared):
    """A text encoder and a cascade of stages.

    Args:
        config: The whole cascade.
        text_encoder: Frozen; made from ``config.text_encoder_name`` by default.
        seed: Of the initial weights; those of stage i depend on (seed, i) only.
        stages: The stages themselves, where they are not to be made from ``config``.
    """

    def __init__(
        self,
        config: ImagenConfig,
        text_encoder: TextEncoder | None = None,
        seed: int = 0,
        stages: Sequence[Stage[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.config, parts = config, build_parts(config, seed, text_encoder, stages)
        self.text_encoder, self.stages, self.frozen = parts.text_encoder, parts.stages, parts.frozen
        self.learners: list[Identified] = [*self.frozen, *self.stages]
        self._modules_of = nn.ModuleList(self.learners)  # the cascade moves and trains them

    @torch.inference_mode()
    def sample_batches(
        self, captions: Sequence[str], samplings: list[Any], seeds: Sequence[int], **options: Any
    ) -> Iterator[list[Tensor]]:
        """Yield, batch by batch, the images of every stage: [b 3 h w] in [-1, 1] on the CPU.

        This is the method: each stage samples from the text and the images of the stage before. As
        many stages run as there are ``samplings``; ``options`` are those of ``Options``.
        """
        how = Options(**options).of_images(len(captions))
        sizes = sizes_of_ratio(self.config, how.aspect_ratio)
        own, texts = how.encoder or self.text_encoder, how.texts(captions)
        encoder = encoder_for(own, texts, self.stages, how.visited, self.device)
        for start in range(0, len(captions), how.batch_size):
            rows = slice(start, start + how.batch_size)
            text = encode_batch(encoder, captions[rows], how.tokens)
            against = how.negatives(rows, len(captions))
            negative = None if against is None else encode_batch(encoder, against)
            images = [] if how.low_res is None else [how.low_res[rows]]
            for i, sampling in enumerate(samplings, how.first):
                with visiting(self.stages[i], how.visited) as here, autocast(here, how.precision):
                    condition = Condition(
                        *text.to(here).pair,
                        low_res=images[-1].to(here) if images else None,
                        size=sizes[i],
                        negative=negative and negative.to(here),
                        given=how.given(rows, sizes[i]),
                    )
                    noise, report = how.noise(seeds[rows], i), how.report(i)
                    sampled = self.stages[i].sample(condition, noise, sampling, callback=report)
                    images.append(sampled.cpu())
            yield images[-len(samplings) :]

    def sample_stages(
        self, captions: Sequence[str], samplings: list[Any], seeds: Sequence[int], **options: Any
    ) -> list[list[Image.Image]]:
        """Return the images of every stage; the arguments are those of ``sample_batches``."""
        batches = self.sample_batches(captions, samplings, seeds, **options)
        return [[i for part in stage for i in to_pil(part)] for stage in zip(*batches, strict=True)]

    def sample(
        self,
        captions: str | Iterable[str] | None = None,
        *,
        num_images_per_caption: int = 1,
        seed: int | None = None,
        seeds: Iterable[int] | None = None,
        output_type: OutputType = "pil",
        progress: bool = True,
        **settings: Any,
    ) -> Any:
        """Return the image of a caption, or a list of those of several captions.

        Args:
            captions: What to sample.
            num_images_per_caption: Above 1 the result is a list, caption by caption.
            seed: Image i gets the seed ``seed + i``; a fresh one by default.
            seeds: One for each image, instead of ``seed``.
            output_type: ``pil``, ``np`` or ``pt``, see ``output_of``.
            progress: Whether a bar shows stage and step.
            settings: Options (see ``Options``), and changes to sampling (see ``samplings``).
        """
        check_call(settings, output_type, self)
        own, each = captions_of(captions), num_images_per_caption
        texts, options = repeated(own, each), Options.taken_from(settings, len(own), each)
        own_seeds = seeds_of(seed, seeds, len(texts))
        samplings = stages_from(options.get("first", 0), self.samplings(**settings))
        with shown(options.pop("callback", None), progress) as callback:
            batches = self.sample_batches(texts, samplings, own_seeds, callback=callback, **options)
            finals = [stages[-1] for stages in batches]
        images = output_of(torch.cat(finals), output_type) if finals else []
        return images[0] if isinstance(captions, str) and len(texts) == 1 else images

    def samplings(self, **settings: Any) -> list[Any]:
        """Return each stage's ``SamplingConfig``, fields changed for all stages or one each."""
        return settings_of(self.stages, settings)

    @property
    def device(self) -> torch.device:
        """Return where the first stage is."""
        return next([*self.stages, *self.frozen][0].parameters()).device

    def identity(self, i: int) -> PartIdentity:
        """Return what weights of learner ``i`` depend on."""
        return self.learners[i].identity(self.config, self.text_encoder)
