"""Weights, and the configuration that they were trained for."""

from pathlib import Path
from typing import Any, Protocol

from pydantic import model_validator
from torch import nn

from minimagen.checked import Config
from minimagen.config import ImagenConfig, Size, StageConfig
from minimagen.errors import UserError
from minimagen.storage.checkpoint import load_weights


class Named(Protocol):
    """A frozen part of a cascade."""

    name: str

    @property
    def fingerprint(self) -> str:
        """What changes with its weights."""
        ...


class Identity(Config):
    """What the weights of a stage depend on; in the header of their file."""

    stage: StageConfig
    image_sizes: tuple[Size, ...]
    """Of the stage before, where there is one, and of the stage."""
    text_encoder_name: str
    text_encoder_fingerprint: str | None = None
    """None in files of versions that did not store it: then the name decides."""

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, values: Any) -> Any:
        """Accept the header of earlier versions: the stage's own keys beside the others."""
        if not isinstance(values, dict) or "unet" not in values:
            return values
        own = {key: value for key, value in values.items() if key in cls.model_fields}
        return own | {"stage": {key: value for key, value in values.items() if key not in own}}

    @classmethod
    def of_stage(cls, config: ImagenConfig, i: int, text_encoder: Named) -> "Identity":
        """Return the identity of stage ``i`` of a cascade."""
        return cls(
            stage=config.stages[i],
            image_sizes=config.image_sizes[max(0, i - 1) : i + 1],
            text_encoder_name=text_encoder.name,
            text_encoder_fingerprint=text_encoder.fingerprint,
        )

    def difference(self, other: "Identity") -> str:
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
        return difference

    def _values(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"stage": {"sampling"}})


def first_difference(one: Any, other: Any, name: str = "") -> str:
    """Return the first difference between two nested values in words; "" where there is none."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**other, **one}:
            part = f"{name}.{key}" if name else key
            if found := first_difference(one.get(key), other.get(key), part):
                return found
        return ""
    return "" if one == other else f"{name or 'it'} was {one!r}, is {other!r}"


def load_stage(stage: nn.Module, path: Path, wanted: Identity) -> None:
    """Load a safetensors file into a stage after checking that it was trained for ``wanted``.

    Raises:
        UserError: There is no such file, it is damaged, or its weights are of something else.
    """
    if not path.is_file():
        raise UserError(
            f"{path.parents[1]} has no trained weights {path.name}; train them with "
            f"`resume` {path.parents[1]}"
        )
    weights = load_weights(path)
    found = Identity.read(weights.state.get("stage"), f"the header of {path}")
    if difference := found.difference(wanted):
        raise UserError(
            f"{path} was trained with another configuration than the directory's parameters: "
            f"{difference}"
        )
    try:
        stage.load_state_dict(weights.tensors)
    except RuntimeError:  # the header fits, the tensors do not: another version's network
        raise UserError(
            f"{path} does not hold the weights of this network: it is damaged, or another "
            "version of this program wrote it"
        ) from None
