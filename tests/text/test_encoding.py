import pytest
import torch

from minimagen.text.encoding import BUCKETS, bucket, pad_and_stack


def test_stacking_keeps_every_token_and_fills_with_exact_zeros():
    sequences = [torch.randn(n, 4) for n in (3, 1, 9)]
    encoding = pad_and_stack(sequences)
    assert encoding.embeds.shape == (3, 12, 4) and encoding.embeds.dtype == torch.float32
    assert encoding.mask.sum(1).tolist() == [3, 1, 9]
    for row, mask, sequence in zip(encoding.embeds, encoding.mask, sequences, strict=True):
        assert torch.equal(row[mask], sequence.bfloat16().float())
    assert not encoding.embeds[~encoding.mask].any()


def test_a_row_without_any_token_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        pad_and_stack([torch.randn(2, 4), torch.empty(0, 4)])
    with pytest.raises(ValueError, match="at least one token"):
        pad_and_stack([])


def test_batches_have_few_lengths():
    assert {bucket(n) for n in range(1, 257)} == set(BUCKETS)
    assert all(n <= bucket(n) <= 2 * max(n, 4) for n in range(1, 2000))
    assert bucket(257) == bucket(512) == 512


def test_what_came_from_a_cache_in_bfloat16_is_what_came_fresh():
    fresh = [torch.randn(n, 4) for n in (3, 5)]
    cached = [sequence.bfloat16() for sequence in fresh]
    assert torch.equal(pad_and_stack(fresh).embeds, pad_and_stack(cached).embeds)
