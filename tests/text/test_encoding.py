import pytest
import torch

from minimagen.text.encoding import pad_and_stack


def test_stacking_keeps_every_token_and_fills_with_exact_zeros():
    sequences = [torch.randn(n, 4) for n in (3, 1, 5)]
    encoding = pad_and_stack(sequences)
    assert encoding.embeds.shape == (3, 5, 4)
    assert encoding.mask.sum(1).tolist() == [3, 1, 5]
    for row, mask, sequence in zip(encoding.embeds, encoding.mask, sequences, strict=True):
        assert torch.equal(row[mask], sequence)
    assert not encoding.embeds[~encoding.mask].any()


def test_a_row_without_any_token_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        pad_and_stack([torch.randn(2, 4), torch.empty(0, 4)])
    with pytest.raises(ValueError, match="at least one token"):
        pad_and_stack([])
