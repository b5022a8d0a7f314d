import pytest
import torch

from minimagen.config import UNetConfig
from minimagen.networks.attention import Attention
from minimagen.networks.attention_maps import observed_attention
from minimagen.networks.embeddings import TextContext
from minimagen.networks.unet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")
MASK = torch.tensor([[True, True, False, True], [True, False, False, False]])


@pytest.mark.parametrize("over_pixels", [True, False])
def test_a_map_is_the_attention_to_the_text_divided_by_its_sum(over_pixels, wake):
    torch.manual_seed(0)
    layer = wake(Attention(6, 2, 4, over_pixels, 5)).double()
    x, tokens = torch.randn(2, 6, 3, 2).double(), torch.randn(2, 4, 5).double()
    keys, values = layer.text_keys_values(tokens)
    context = TextContext(torch.zeros(2, 1), ((keys, values),), MASK)
    with observed_attention(layer) as maps:
        layer(x, context)
    flat = layer.norm(x).flatten(2).mT
    q = layer.q_norm(layer.to_q(flat).reshape(2, 6, 2, 4)).transpose(1, 2)
    scores = (q @ keys.mT / 2.0).exp() * MASK[:, None, None]
    if over_pixels:  # the softmax over pixels and tokens, of which the tokens' part is taken
        own = layer.to_kv(flat).chunk(2, dim=-1)[0].reshape(2, 6, 2, 4)
        total = (q @ layer.k_norm(own).transpose(1, 2).mT / 2.0).exp().sum(-1) + scores.sum(-1)
        scores = scores / total[..., None]
    expected = (scores / scores.sum(-1, keepdim=True)).mean(1).mT.reshape(2, 4, 3, 2)
    torch.testing.assert_close(maps[0].double(), expected, atol=1e-6, rtol=1e-5)


def test_maps_sum_to_1_over_tokens_and_leave_the_output_equal_to_the_bit(wake):
    torch.manual_seed(0)
    config = UNetConfig(
        dim=8, dim_mults=(1, 2), layer_attns=(False, True), layer_cross_attns=True,
        attn_heads=2, attn_head_dim=4, cond_dim=8,
    )  # fmt: skip
    unet = wake(UNet(config, 5, lowres_cond=False))
    context = unet.encode_text(torch.randn(2, 4, 5), MASK, torch.tensor([False, False]))
    x, log_snr = torch.randn(2, 3, 8, 8), torch.zeros(2)
    plain = unet(x, log_snr, context)
    with observed_attention(unet) as maps:
        assert torch.equal(unet(x, log_snr, context), plain)
    readers = [m for m in unet.modules() if isinstance(m, Attention) and m.text_to_kv]
    assert len(maps) == len(readers) > 2
    padding = (~MASK)[:, :, None, None]
    for each in maps:
        assert each.shape[:2] == (2, 4) and float(each.min()) >= 0.0
        torch.testing.assert_close(each.sum(1), torch.ones_like(each[:, 0]))
        assert float((each * padding).abs().max()) == 0.0
    unet(x, log_snr, context)
    assert len(maps) == len(readers) and not any(m._forward_pre_hooks for m in unet.modules())
