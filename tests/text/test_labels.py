"""Class labels as a text encoder."""

import pytest
import torch

from minimagen.data.labels import labels_of
from minimagen.errors import UserError
from minimagen.networks.embeddings import TextTokens
from minimagen.shapes.dataset import embedded
from minimagen.text.build import build
from minimagen.text.encoding import encode_batch
from minimagen.text.labels import LabelEncoder

LABELS = ("cat", "dog", "bird")


def test_a_label_is_one_token_a_unit_vector_of_its_place() -> None:
    encoded = LabelEncoder(LABELS).encode(["bird", "cat"])
    assert torch.equal(torch.cat(encoded), torch.eye(3)[[2, 0]])
    batch = encode_batch(build("labels", 64, LABELS), ["dog"])
    assert batch.mask.sum() == 1 and batch.embeds.shape[-1] == 3


def test_an_unknown_label_names_the_valid_ones() -> None:
    with pytest.raises(UserError, match="'brid' is not a label; did you mean 'bird'") as raised:
        LabelEncoder(LABELS).encode(["cat", "brid"])
    assert "cat, dog, bird" in str(raised.value)
    with pytest.raises(UserError, match="needs `labels`"):
        LabelEncoder(())


def test_the_fingerprint_is_that_of_the_labels_in_their_order() -> None:
    one = LabelEncoder(LABELS).fingerprint
    assert one == LabelEncoder(list(LABELS)).fingerprint
    assert one != LabelEncoder(LABELS[::-1]).fingerprint


def test_labels_survive_the_first_layer_of_the_network() -> None:
    """Its LayerNorm keeps one-hot vectors apart: any table of embeddings can be learned."""
    embeds = torch.eye(10)[:, None]
    tokens = TextTokens(10, 16)
    out, _ = tokens(embeds, torch.ones(10, 1, dtype=torch.bool), torch.zeros(10, dtype=torch.bool))
    assert torch.linalg.matrix_rank(out[:, 0].detach() - out[:1, 0].detach()) == 9


def test_the_labels_of_data_are_its_captions_in_order() -> None:
    digits = labels_of(embedded("digits", size=8, caption_column="digit"))
    assert digits == tuple("0123456789")
    with pytest.raises(UserError, match="they are no labels"):
        labels_of(embedded("shapes", size=8))
