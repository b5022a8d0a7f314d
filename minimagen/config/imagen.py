"""The whole cascade."""

import math
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import model_validator

from minimagen.checked import Config, Flag, PositiveInt
from minimagen.config.autoencoders import AutoencoderConfig
from minimagen.config.clip import ClipConfig
from minimagen.config.kinds import StageConfig
from minimagen.config.sizes import Size, SquareOrSize
from minimagen.errors import UserError, did_you_mean


class ImagenConfig(Config):
    """The whole cascade."""

    image_sizes: tuple[SquareOrSize, ...] = ()
    """(height, width) of every stage's images; a single number means a square."""
    text_encoder_name: Annotated[str, Flag("t5", "T5_NAME", also=("text_encoder",))] = "t5_mini"
    """Text encoder: t5_mini, minilm_mini, minilm, t5_small ..., a hub id (owner/name, or
    owner/name@revision), a folder, labels, clip (the one trained here), a training directory with a
    CLIP, or diffusers: and a model of diffusers', whose own it is."""
    max_num_words: Annotated[PositiveInt, Flag("mw", also=("max_tokens",))] = 64
    """Longest caption in tokens; longer ones are cut."""
    labels: tuple[str, ...] = ()
    """What the text encoder ``labels`` knows; training fills it in from the data where it is
    empty."""
    clip: ClipConfig | None = None
    """Trained before the stages; their text encoder, if that is called clip."""
    autoencoders: tuple[AutoencoderConfig, ...] = ()
    """Trained before the stages, which may denoise their latents."""
    stages: tuple[StageConfig, ...] = ()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if not self.learner_names:
            raise ValueError("there is nothing to train: no stage, autoencoder or CLIP")
        if self.text_encoder_name == "clip" and self.clip is None:
            raise ValueError(
                "text_encoder_name is clip, and there is none: add clip.json, or name "
                "a training directory that has one"
            )
        if len(self.image_sizes) != len(self.stages):
            raise ValueError(
                f"image_sizes has {len(self.image_sizes)} entries for {len(self.stages)} stages"
            )
        for i, size in enumerate(self.image_sizes):
            self._check_autoencoder(i)
            self._check_low_res(i)
            check_size(size, self.divisor_of(i), i)
        for low, high in zip(self.image_sizes, self.image_sizes[1:], strict=False):
            if low[0] >= high[0] or low[1] >= high[1]:
                raise ValueError(f"image_sizes must grow from stage to stage, given {low}, {high}")
        for i, stage in enumerate(self.stages):
            if stage.crop is not None:
                self._check_crop(i, stage.crop)
        return self

    @property
    def learner_names(self) -> tuple[str, ...]:
        """Return the names of all that is trained, in order: CLIP, autoencoders, stages."""
        clip = ("clip",) * (self.clip is not None)
        autoencoders = (f"autoencoder_{i}" for i in range(len(self.autoencoders)))
        return (*clip, *autoencoders, *map(self._stage_name, range(len(self.stages))))

    @property
    def parts(self) -> tuple[ClipConfig | AutoencoderConfig, ...]:
        """Return the configurations of what is trained before the stages, in order."""
        return (*((self.clip,) if self.clip is not None else ()), *self.autoencoders)

    def unmeasured(self) -> Self:
        """Return the cascade as it was before its parts measured themselves."""
        return self.replace(autoencoders=[each.unmeasured() for each in self.autoencoders])

    @property
    def first_stage(self) -> int:
        """Return the place of the first stage among the learners."""
        return len(self.learner_names) - len(self.stages)

    def _stage_name(self, i: int) -> str:
        return f"{'gpt' if self.stages[i].kind == 'tokens' else 'unet'}_{i}"

    @property
    def learner_keys(self) -> tuple[int | str, ...]:
        """Return what the draws of each learner depend on: a stage's index, or the name."""
        return (*self.learner_names[: self.first_stage], *range(len(self.stages)))

    def stages_with(self, name: str) -> Sequence[int]:
        """Return the stages that are trained with the learner called ``name``."""
        if name == "clip":
            return range(len(self.stages)) if self.text_encoder_name == "clip" else ()
        return [i for i in range(len(self.stages)) if f"autoencoder_{self.coder_of(i)}" == name]

    def coder_of(self, i: int) -> int | str | None:
        """Return what stage ``i`` is trained with: its autoencoder, or that of the stage before."""
        if self.stages[i].reconstructed_low_res:
            return self.stages[i - 1].autoencoder
        return self.stages[i].autoencoder

    def title(self, i: int) -> str:
        """Return what messages call learner ``i``."""
        key = self.learner_keys[i]
        return f"stage {key}" if isinstance(key, int) else key

    @property
    def data_size(self) -> Size:
        """Return (height, width) of the images to train on: those of the last stage, if any."""
        if self.image_sizes:
            return self.image_sizes[-1]
        return max(part.image_size for part in self.parts)

    def chosen_learners(
        self, stages: Sequence[int] | None = None, learners: Sequence[str] | None = None
    ) -> Sequence[int]:
        """Return the places of what is meant: of ``stages``, of named ``learners``, or of all.

        Raises:
            UserError: One does not exist.
        """
        if learners is None:
            chosen = self.chosen_stages(stages)
            first = 0 if stages is None else self.first_stage
            return range(len(self.learner_names)) if stages is None else [first + i for i in chosen]
        for name in learners:
            if name not in self.learner_names:
                raise UserError(
                    f"`learners`: there is no {name!r}{did_you_mean(name, self.learner_names)}; "
                    f"what is trained is {', '.join(self.learner_names)}"
                )
        return sorted({self.learner_names.index(name) for name in learners})

    def chosen_stages(self, stages: Sequence[int] | None) -> Sequence[int]:
        """Return which stages are meant: ``stages``, or all; a UserError if one does not exist."""
        count = len(self.stages)
        for i in stages or ():
            if not 0 <= i < count:
                have = f"the stages are 0 to {count - 1}" if count else "this has none"
                raise UserError(f"`stages`: there is no stage {i}; {have}")
        return range(count) if stages is None else stages

    def divisor_of(self, i: int) -> int:
        """Return what both sides of the images of stage ``i`` must be divisible by.

        The autoencoder counts where it is one of this cascade: others are not read yet.
        """
        stage = self.stages[i]
        if isinstance(stage.autoencoder, int):
            return stage.divisor * self.autoencoders[stage.autoencoder].factor
        return stage.divisor

    def _check_autoencoder(self, i: int) -> None:
        """Raise ValueError unless stage ``i`` fits the autoencoder that it names, if it does."""
        given, count = self.stages[i].autoencoder, len(self.autoencoders)
        if given is None:
            return
        tokens = self.stages[i].kind == "tokens"
        if i:
            what = "is of tokens" if tokens else "has an autoencoder"
            raise ValueError(f"stage {i} {what}; only the first one may: others enlarge pixels")
        if isinstance(given, int):
            if given >= count:
                raise ValueError(
                    f"stage {i}: there is no autoencoder {given}; this cascade has {count}"
                )
            if tokens and not self.autoencoders[given].is_discrete:
                raise ValueError(f"stage {i}: autoencoder {given} has no tokens; give it kind fsq")
            if not tokens and self.autoencoders[given].color_codes:
                raise ValueError(
                    f"stage {i} denoises latents, but autoencoder {given} has color_codes, which "
                    "stages of tokens read; give it false"
                )
            channels, own = self.autoencoders[given].channels, self.stages[i].latent_channels
            if own is not None and channels != own:
                raise ValueError(
                    f"stage {i}: unet.channels is {own}, the autoencoder's latents have {channels}"
                )

    def _check_low_res(self, i: int) -> None:
        """Raise ValueError if stage ``i`` enlarges reconstructions and there are none."""
        if self.stages[i].reconstructed_low_res and (i == 0 or self.coder_of(i) is None):
            why = "no stage before it" if i == 0 else "no autoencoder in the stage before it"
            raise ValueError(
                f"stage {i}: reconstructed_low_res is true, but there is {why}; give false"
            )

    def _check_crop(self, i: int, crop: int) -> None:
        """Raise ValueError unless a crop of stage ``i`` is one of the stage before as well."""
        if i == 0:
            raise ValueError(f"stage 0: crop is {crop}, but only super-resolution crops; give null")
        sizes = zip(self.image_sizes[i], self.image_sizes[i - 1], strict=True)
        factors = [high / low for high, low in sizes]
        if factors[0] != factors[1] or factors[0] % 1:
            raise ValueError(
                f"stage {i}: crops need sizes that grow by one whole factor, "
                f"here {factors[0]:g} and {factors[1]:g}; give null for crop"
            )
        step = math.lcm(self.divisor_of(i), int(factors[0]))
        if crop % step:
            raise ValueError(f"stage {i}: crop is {crop}, must be a multiple of {step}")


def check_size(size: Size, divisor: int, stage: int) -> None:
    """Raise ValueError unless both sides are positive multiples of ``divisor``."""
    if any(side < 1 or side % divisor for side in size):
        below = [side // divisor * divisor for side in size]
        near = [[n + more for n in below] for more in (0, divisor) if min(below) + more]
        raise ValueError(
            f"stage {stage}: {size[0]} x {size[1]} pixels is not divisible by {divisor} (the "
            f"U-Net's levels and patch_size); use {' or '.join(f'{h} x {w}' for h, w in near)}"
        )
