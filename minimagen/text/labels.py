"""Class labels as a text encoder: a label is one token, with a one-hot embedding."""

import hashlib
import json
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from minimagen.errors import UserError, did_you_mean
from minimagen.text.encoding import TokenReport

NAME = "labels"


class LabelEncoder:
    """Encodes each of some labels as one token, the unit vector of its place among them.

    The first layer of a network that reads it is a table of learned embeddings.

    Args:
        labels: All of them.

    Raises:
        UserError: there are none.
    """

    name = NAME

    def __init__(self, labels: Sequence[str]) -> None:
        if not labels:
            raise UserError(
                "the text encoder labels needs `labels` in imagen.json; train.py takes them from "
                "the data"
            )
        self.labels = tuple(labels)
        self._places = {label: i for i, label in enumerate(self.labels)}

    @property
    def embed_dim(self) -> int:
        """The number of labels."""
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """What changes with the labels or their order."""
        return hashlib.sha256(json.dumps(self.labels).encode()).hexdigest()[:32]

    def to(self, device: torch.device | str) -> Self:
        """Return itself: there is nothing to move."""
        return self

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        """Return one ``[1, d]`` unit vector per label.

        Raises:
            UserError: one is no label; the message lists the labels.
        """
        table = torch.eye(len(self.labels))
        return [table[self._place(caption)][None].clone() for caption in captions]

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        """Return that each label is one token, and that anything else is unknown."""
        return [TokenReport(1, caption not in self._places) for caption in captions]

    def notes(self) -> list[str]:
        """Return nothing: there is nothing to know."""
        return []

    def _place(self, label: str) -> int:
        if label not in self._places:
            raise UserError(
                f"{label!r} is not a label{did_you_mean(label, self.labels)}; give one of "
                f"{', '.join(self.labels)}"
            )
        return self._places[label]
