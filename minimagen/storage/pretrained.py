"""Weights, and the configuration that they were trained for."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from pydantic import model_validator
from torch import nn

from minimagen.checked import Config, per_stage
from minimagen.config import (
    AutoencoderConfig,
    ClipConfig,
    ImagenConfig,
    Size,
    StageConfig,
    TrainingConfig,
)
from minimagen.errors import UserError
from minimagen.learner import Learner
from minimagen.storage.checkpoint import checkpoints, load_averages, load_weights, read_header
from minimagen.storage.directory import (
    Choice,
    Choices,
    TrainingDirectory,
    read_choice,
    read_imagen_config,
    read_parameter_values,
)


class Named(Protocol):
    """A frozen part of a cascade."""

    name: str

    @property
    def fingerprint(self) -> str:
        """What changes with its weights."""
        ...


class PartIdentity(Config):
    """What the weights of a learner depend on; in the header of their file."""

    def difference(self, other: Self) -> str:
        """Return what ``other`` has otherwise, in words; "" where the weights fit both."""
        return first_difference(self.model_dump(mode="json"), other.model_dump(mode="json"))

    def with_parts_of(self, other: Self) -> Self:
        """Return this identity with the frozen parts of ``other``; here it has none."""
        return self


class ClipIdentity(PartIdentity):
    """What the weights of a CLIP depend on."""

    clip: ClipConfig
    reads: str | None
    """The fingerprint of the frozen text encoder that its text tower reads."""


def fingerprint_of(module: nn.Module, what: str) -> str:
    """Return what changes with the weights of a module, or with ``what`` else it depends on."""
    digest = hashlib.sha256(what.encode())
    for name, parameter in module.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


class Identified(Learner):
    """A learner that knows what its weights depend on."""

    @property
    def comes_trained(self) -> bool:
        """Return whether it was built with weights that are in no training directory."""
        return False

    @property
    def trained_with(self) -> dict[str, Any]:
        """Return what of its configuration its training depends on and its use does not, JSON."""
        return {}

    @abstractmethod
    def identity(self, config: ImagenConfig, text_encoder: Named) -> PartIdentity:
        """Return what its weights depend on, as a part of this cascade."""


class Part(Identified):
    """A learner that is frozen while stages train on what it makes.

    Attributes:
        config: What it is; its file of parameters.
    """

    config: Config

    @property
    @abstractmethod
    def own_identity(self) -> PartIdentity:
        """Return what its weights depend on, in any cascade."""

    def identity(self, config: ImagenConfig, text_encoder: Named) -> PartIdentity:
        """Return what its weights depend on."""
        return self.own_identity


class AutoencoderIdentity(PartIdentity):
    """What the weights of an autoencoder depend on."""

    autoencoder: AutoencoderConfig
    """Without what is measured at the end of its training."""


class Identity(PartIdentity):
    """What the weights of a stage depend on."""

    stage: StageConfig
    image_sizes: tuple[Size, ...]
    """Of the stage before, where there is one, and of the stage."""
    text_encoder_name: str
    text_encoder_fingerprint: str | None = None
    """None in files of versions that did not store it: then the name decides."""
    autoencoder_fingerprint: str | None = None
    """None for a stage that is trained with none."""

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, values: Any) -> Any:
        """Accept the header of earlier versions: the stage's own keys beside the others."""
        if not isinstance(values, dict) or "unet" not in values:
            return values
        own = {key: value for key, value in values.items() if key in cls.model_fields}
        return own | {"stage": {key: value for key, value in values.items() if key not in own}}

    @classmethod
    def of_stage(
        cls, config: ImagenConfig, i: int, text_encoder: Named, autoencoder: str | None = None
    ) -> "Identity":
        """Return that of stage ``i`` of a cascade; ``autoencoder`` is its fingerprint."""
        return cls(
            autoencoder_fingerprint=autoencoder,
            stage=config.stages[i],
            image_sizes=config.image_sizes[max(0, i - 1) : i + 1],
            text_encoder_name=text_encoder.name,
            text_encoder_fingerprint=text_encoder.fingerprint,
        )

    def difference(self, other: Self) -> str:
        """Return what ``other`` has otherwise, in words; "" where the weights fit both.

        Sampling settings do not matter. Where a fingerprint is missing, the encoder's name does.
        """
        one, two = self._values(), other._values()
        known = self.text_encoder_fingerprint and other.text_encoder_fingerprint
        for values in (one, two):
            del values["text_encoder_name" if known else "text_encoder_fingerprint"]
        difference = first_difference(one, two)
        if difference.startswith("text_encoder_fingerprint"):
            return "the text encoder, or its `max_num_words`, was another one"
        if difference.startswith("autoencoder_fingerprint"):
            return "the autoencoder was another one"
        return difference

    def with_parts_of(self, other: Self) -> Self:
        """Return this identity with the text encoder and the autoencoder of ``other``."""
        return self.replace(
            text_encoder_fingerprint=other.text_encoder_fingerprint,
            autoencoder_fingerprint=other.autoencoder_fingerprint,
        )

    def _values(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"stage": {"sampling", "autoencoder", "model"}})


def first_difference(one: Any, other: Any, name: str = "") -> str:
    """Return the first difference between two nested values in words; "" where there is none."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**other, **one}:
            part = f"{name}.{key}" if name else key
            if found := first_difference(one.get(key), other.get(key), part):
                return found
        return ""
    return "" if one == other else f"{name or 'it'} was {one!r}, is {other!r}"


def find_weights(directory: TrainingDirectory, name: str, choice: Choice = "final") -> Path:
    """Return where the averaged weights of a stage are: a file, or a checkpoint's folder.

    Args:
        directory: Where to look.
        name: The stage's.
        choice: ``final``, ``best`` or a step.

    Raises:
        UserError: There are none; the message lists the steps whose checkpoints are kept.
    """
    try:
        choice = read_choice(choice)
    except ValueError as error:
        raise UserError(f"`weights` {error}, given {choice!r}") from None
    if choice == "final":
        path = directory.weights(name)
        if not path.is_file():
            raise UserError(
                f"{directory} has no trained weights {path.name}; train them with "
                f"`resume` {directory}"
            )
        return path
    if choice == "best":
        path = directory.best_weights(name)
        if not path.is_file():
            raise UserError(f"{directory} has no {path.name}; give `weights` final")
        return path
    prefix = directory.checkpoint_prefix(name)
    kept = {int(f.stem.removeprefix(prefix)): f for f in checkpoints(directory.tmp, prefix)}
    if choice not in kept:
        raise UserError(
            f"{directory} keeps no checkpoint of {name} after step {choice} (it keeps "
            f"{', '.join(map(str, kept)) or 'none'}); give `weights` one of those, final or "
            "best; stages may have one value each"
        )
    return kept[choice]


class Cascade(Protocol):
    """What has learners."""

    config: ImagenConfig
    text_encoder: Any
    frozen: list[Part]

    @property
    def learners(self) -> Sequence[Identified]:
        """Return all that is trained, in order."""
        ...


def is_finished(directory: TrainingDirectory, name: str) -> bool:
    """Return whether a learner's training has ended; it has in a cascade that was shared.

    So it has where the learner is that of a source or a teacher, and no job trains it on. An
    autoencoder's training ends with the measurement of its latents.
    """
    if not directory.weights(name).is_file():
        return False
    values = read_parameter_values(directory.parameters)
    config = ImagenConfig.read(values["imagen"], str(directory.parameters / "imagen.json"))
    own = [a for k, a in enumerate(config.autoencoders) if name == f"autoencoder_{k}"]
    if name not in config.learner_names or any(a.latents_mean is None for a in own):
        return False
    if "training" not in values:
        return True
    training = TrainingConfig.read(values["training"], str(directory.parameters / "training.json"))
    elsewhere = directory.teacher.is_dir() or training.source is not None
    if elsewhere and not directory.claim(name).exists():
        return True
    i = config.learner_names.index(name)
    return bool(read_header(directory.weights(name)).get("step") == training.steps_of(i))


def check_finished(directory: TrainingDirectory, name: str) -> None:
    """Raise a UserError where a part is to be used whose training has not ended."""
    if not is_finished(directory, name):
        raise UserError(
            f"the training of {name} in {directory} has not ended: what is trained with it would "
            f"not fit it later; end it first (`resume` {directory})"
        )


def load_learners(
    cascade: Cascade,
    directory: TrainingDirectory,
    weights: Choices = "final",
    chosen: Sequence[int] | None = None,
) -> None:
    """Load the weights of learners from a training directory, in order.

    Args:
        cascade: What to load them into.
        directory: Where they are.
        weights: ``final``, ``best`` (lowest validation loss) or the step of a kept checkpoint; of
            all stages, or one each. What is frozen while they train has its final ones.
        chosen: The places of the learners to load; all by default.

    Raises:
        UserError: A learner's weights are missing, damaged, or of something else.
    """
    first = cascade.config.first_stage
    choices = per_stage("`weights`", weights, len(cascade.config.stages))
    for i in range(len(cascade.learners)) if chosen is None else chosen:
        learner, choice = cascade.learners[i], choices[i - first] if i >= first else "final"
        if learner.comes_trained and not directory.weights(learner.name).is_file():
            continue
        wanted = learner.identity(cascade.config, cascade.text_encoder)
        load_stage(learner, find_weights(directory, learner.name, choice), wanted)


def load_frozen(cascade: Cascade, directory: TrainingDirectory) -> None:
    """Load what stages are trained with, as far as the directory has it, and not the stages.

    What these parts measured of themselves belongs to it.
    """
    configs = read_imagen_config(directory.parameters).parts
    for i, part in enumerate(cascade.frozen):
        if directory.weights(part.name).is_file():
            load_learners(cascade, directory, chosen=[i])
            part.config = configs[i]


def load_stage(stage: nn.Module, path: Path, wanted: PartIdentity) -> None:
    """Load averaged weights into a learner after checking that they were trained for ``wanted``.

    Args:
        stage: What to load them into.
        path: A safetensors file or a checkpoint's folder, see ``find_weights``.
        wanted: What the stage is now.

    Raises:
        UserError: There is nothing, it is damaged, or its weights are of something else.
    """
    weights = load_averages(path) if path.is_dir() else load_weights(path)
    found = type(wanted).read(weights.state.get("stage"), f"the header of {path}")
    if difference := found.difference(wanted):
        raise UserError(
            f"{path} was trained with another configuration than this cascade's: {difference}; "
            "leave that as it was"
        )
    try:
        stage.load_state_dict(weights.tensors)
    except RuntimeError:  # the header fits, the tensors do not: another version's network
        raise UserError(
            f"{path} does not hold the weights of this network: it is damaged, or another "
            "version of this program wrote it"
        ) from None
