import pytest
import torch

from minimagen.networks.attention import Attention
from minimagen.networks.embeddings import (
    AttentionPooling,
    NoiseLevelEmbedding,
    TextContext,
    split_heads,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(layer, x, tokens, mask):
    """Softmax attention over [pixels; text] written with loops over rows and heads."""
    b, c, h, w = x.shape
    flat = layer.norm(x).flatten(2).transpose(1, 2)
    queries = layer.q_norm(split_heads(layer.to_q(flat), layer.heads))
    rows = []
    for i in range(b):
        keys, values = [], []
        for project, source in (
            (layer.to_kv, flat[i]),
            (layer.text_to_kv, None if tokens is None else tokens[i][mask[i]]),
        ):
            if project is not None and source is not None:
                k, v = project(source).chunk(2, dim=-1)
                keys.append(layer.k_norm(split_heads(k[None], layer.heads))[0])
                values.append(split_heads(v[None], layer.heads)[0])
        k, v = torch.cat(keys, 1), torch.cat(values, 1)
        weights = (queries[i] @ k.mT / k.shape[-1] ** 0.5).softmax(-1)
        rows.append((weights @ v).transpose(0, 1).flatten(1))
    update = layer.to_out(torch.stack(rows))
    return x + update.transpose(1, 2).reshape(b, c, h, w)


@pytest.mark.parametrize(("over_pixels", "reads_text"), [(1, 1), (1, 0), (0, 1)])
def test_attention_is_softmax_over_pixels_and_real_tokens(over_pixels, reads_text, wake):
    torch.manual_seed(0)
    layer = wake(Attention(6, 2, 4, bool(over_pixels), 5 if reads_text else None)).double()
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64)
    tokens = torch.randn(2, 4, 5, dtype=torch.float64) if reads_text else None
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    pairs = (layer.text_keys_values(tokens),) if reads_text else ()
    out = layer(x, TextContext(torch.zeros(2, 1), pairs, mask))
    torch.testing.assert_close(out, by_hand(layer, x, tokens, mask))
    assert (out - x).abs().max() > 1e-3


def test_query_key_normalisation_bounds_the_logits():
    layer = Attention(6, 2, 4, True, None)
    x = 1e4 * torch.randn(1, 6, 3, 3)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    queries = layer.q_norm(split_heads(layer.to_q(1e4 * tokens), 2))
    assert queries.norm(dim=-1).max() <= 2.0 + 1e-3  # sqrt(head_dim)


def test_pooling_ignores_padding_and_sees_every_real_token():
    torch.manual_seed(0)
    pool = AttentionPooling(8, 5)
    tokens, mask = torch.randn(1, 4, 8), torch.tensor([[True, True, True, False]])
    plain = pool(tokens, mask)
    torch.testing.assert_close(pool(tokens[:, :3], mask[:, :3]), plain)
    for i in range(3):
        changed = tokens.clone()
        changed[0, i] += 1.0
        assert (pool(changed, mask) - plain).abs().max() > 1e-4


def test_noise_levels_are_told_apart_over_the_whole_range():
    torch.manual_seed(0)
    embedding = NoiseLevelEmbedding(16)
    levels = torch.linspace(-20.0, 20.0, 401)
    angles = levels[:, None] * embedding.frequencies
    features = torch.cat([angles.sin(), angles.cos()], dim=1)
    distances = torch.cdist(features, features) + 10.0 * torch.eye(401)
    assert distances.min() > 0.1
    assert embedding(levels).shape == (401, 16)
