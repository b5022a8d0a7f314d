import copy

import pytest
import torch
from torch import nn

from minimagen.config import UNetConfig
from minimagen.networks.unet import UNet, count_parameters

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 6  # of the text embeddings
TINY = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_head_dim": 4}
SHAPES = {
    "base": {"layer_attns": (False, True), "num_resnet_blocks": (1, 2)},
    "efficient": {"memory_efficient": True, "num_resnet_blocks": (2, 1)},
    "stem": {"patch_size": 2, "layer_attns": True},
    "efficient stem": {"memory_efficient": True, "patch_size": 2, "layer_attns": (False, True)},
    "text nowhere but pooled": {"layer_cross_attns": False, "attend_at_middle": False},
    "pixels without text": {"layer_attns": True, "layer_cross_attns": False},
    "one level": {"dim_mults": (1,), "cond_dim": 12},
    "three levels": {"dim_mults": (1, 2, 4), "layer_cross_attns": (False, True, True)},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
both_links = pytest.mark.parametrize("lowres_cond", [False, True], ids=["base", "super-res"])


def fresh(shape, lowres_cond=False):
    torch.manual_seed(0)
    return UNet(UNetConfig(**(TINY | shape)), WIDTH, lowres_cond)


def inputs(unet, batch=3, size=(8, 8), tokens=5, drop=None):
    """Return the arguments of a forward pass; row i has i + 1 real tokens."""
    random = torch.Generator().manual_seed(1)
    mask = torch.arange(tokens) <= torch.arange(batch)[:, None]
    embeds = torch.randn(batch, tokens, WIDTH, generator=random) * mask[..., None]
    drop = torch.zeros(batch, dtype=torch.bool) if drop is None else drop
    arguments = [
        torch.randn(batch, 3, *size, generator=random),
        torch.linspace(-5.0, 5.0, batch),
        unet.encode_text(embeds, mask, drop),
    ]
    if unet.lowres_cond:
        low = torch.randn(batch, 3, *size, generator=random)
        arguments += [low, torch.linspace(-1.0, 3.0, batch)]
    return arguments


def test_groups_of_a_norm_have_the_channels_that_the_configuration_says():
    def groups(least: int) -> list[int]:
        unet = UNet(UNetConfig(dim=48, dim_mults=(1, 2), norm_group_channels=least), WIDTH, False)
        norms = [norm for norm in unet.modules() if isinstance(norm, nn.GroupNorm)]
        return [n.num_channels // n.num_groups for n in norms if n.num_groups > 1]

    assert set(groups(8)) == {8} and set(groups(16)) == {16}
    assert groups(8) == groups(UNetConfig(dim=48, dim_mults=(1,)).norm_group_channels)


@shapes
@both_links
def test_a_fresh_network_outputs_zero(shape, lowres_cond):
    unet = fresh(shape, lowres_cond)
    out = unet(*inputs(unet))
    assert out.shape == (3, 3, 8, 8)
    assert not out.any()


@shapes
@both_links
def test_every_parameter_learns(shape, lowres_cond):
    """Zero weights open one after the other: after three steps every gradient is alive."""
    unet = fresh(shape, lowres_cond)
    optimizer = torch.optim.SGD(unet.parameters(), lr=0.1)
    drop = torch.tensor([False, False, True])
    for _ in range(4):
        optimizer.zero_grad()
        (unet(*inputs(unet, drop=drop)) - 1.0).square().mean().backward()
        optimizer.step()
    dead = [n for n, p in unet.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@shapes
def test_the_one_step_gradient_reaches_the_output_and_nothing_is_unused(shape):
    unet = fresh(shape)
    (unet(*inputs(unet)) - 1.0).square().mean().backward()
    assert unet.conv_out.weight.grad.any()
    assert all(p.grad is not None for p in unet.parameters())


@shapes
@both_links
@pytest.mark.parametrize("size", [(8, 16), (24, 8)])
def test_images_need_not_be_square(shape, lowres_cond, size, wake):
    unet = wake(fresh(shape, lowres_cond))
    assert unet(*inputs(unet, size=size)).shape == (3, 3, *size)


@shapes
def test_padding_tokens_change_nothing(shape, wake):
    unet = wake(fresh(shape))
    x, log_snr, _ = inputs(unet)
    mask = torch.arange(5) <= torch.arange(3)[:, None]
    embeds = torch.randn(3, 5, WIDTH)
    keep = torch.zeros(3, dtype=torch.bool)
    plain = unet(x, log_snr, unet.encode_text(embeds * mask[..., None], mask, keep))
    dirty = unet(x, log_snr, unet.encode_text(embeds + 50.0 * ~mask[..., None], mask, keep))
    longer = nn.functional.pad(embeds, (0, 0, 0, 4)), nn.functional.pad(mask, (0, 4))
    padded = unet(x, log_snr, unet.encode_text(*longer, keep))
    torch.testing.assert_close(dirty, plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(padded, plain, rtol=0, atol=1e-5)


@shapes
@both_links
def test_neighbors_in_the_batch_change_nothing(shape, lowres_cond, wake):
    unet = wake(fresh(shape, lowres_cond))
    x, log_snr, context, *low = inputs(unet)
    together = unet(x, log_snr, context, *low)
    first = unet(x[:1], log_snr[:1], context.rows(1), *(value[:1] for value in low))
    torch.testing.assert_close(first, together[:1], rtol=0, atol=1e-5)


@shapes
def test_a_dropped_caption_is_the_null_token_whatever_the_caption(shape, wake):
    unet = wake(fresh(shape))
    x, log_snr, _ = inputs(unet)
    outputs = []
    for tokens in (1, 7):
        mask = torch.arange(tokens) <= torch.arange(3)[:, None]
        embeds = torch.randn(3, tokens, WIDTH)
        context = unet.encode_text(embeds, mask, torch.tensor([True, True, False]))
        assert context.mask.any(1).all()  # no row is all padding
        outputs.append(unet(x, log_snr, context))
    torch.testing.assert_close(outputs[0][:2], outputs[1][:2], rtol=0, atol=1e-5)
    assert (outputs[0][2] - outputs[1][2]).abs().max() > 1e-3


@shapes
def test_caption_noise_level_and_image_all_matter(shape, wake):
    unet = wake(fresh(shape, lowres_cond=True))
    arguments = inputs(unet)
    plain = unet(*arguments)
    for i in (0, 1, 3, 4):
        changed = list(arguments)
        changed[i] = changed[i] + 0.5
        assert (unet(*changed) - plain).abs().max() > 1e-4, i
    changed = list(arguments)
    changed[2] = unet.encode_text(
        torch.randn(3, 5, WIDTH), torch.ones(3, 5, dtype=torch.bool), torch.zeros(3).bool()
    )
    assert (unet(*changed) - plain).abs().max() > 1e-4


@shapes
def test_a_copy_is_independent(shape, wake):
    unet = wake(fresh(shape))
    twin = copy.deepcopy(unet)
    before = twin(*inputs(twin)).detach()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.zero_()
    assert torch.equal(twin(*inputs(twin)), before)


def test_a_side_that_the_levels_do_not_divide_is_refused():
    unet = fresh(SHAPES["stem"])
    with pytest.raises(RuntimeError):
        unet(*inputs(unet, size=(9, 8)))


def test_one_batch_can_be_learnt_by_heart():
    """Two images that differ by their caption alone; loss <= 0.02 (the mean image: 1)."""
    torch.manual_seed(0)
    unet = UNet(UNetConfig(dim=12, dim_mults=(1, 2), attn_heads=2, attn_head_dim=8), WIDTH, False)
    image = torch.randn(1, 3, 8, 8).sign()
    target = torch.cat([image, -image])
    x, log_snr = torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1), torch.zeros(2)
    embeds, mask = torch.randn(2, 4, WIDTH), torch.ones(2, 4, dtype=torch.bool)
    optimizer = torch.optim.Adam(unet.parameters(), lr=5e-3)
    for _ in range(100):
        context = unet.encode_text(embeds, mask, torch.zeros(2, dtype=torch.bool))
        loss = (unet(x, log_snr, context) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


@pytest.mark.parametrize(("shape", "scale"), [("efficient", 2**-0.5), ("base", 1.0)])
def test_skips_reach_the_way_up_and_the_efficient_unets_are_scaled(shape, scale, wake):
    unet = wake(fresh(SHAPES[shape]))
    seen = {}
    unet.downs[0].blocks[-1].register_forward_hook(lambda *call: seen.update(skip=call[2]))
    unet.ups[-1].blocks[0].register_forward_hook(lambda *call: seen.update(joined=call[1][0]))
    unet(*inputs(unet))
    channels = seen["skip"].shape[1]
    torch.testing.assert_close(seen["joined"][:, -channels:], seen["skip"] * scale)


def test_parameters_are_counted():
    assert count_parameters(nn.Linear(3, 5)) == 20


@shapes
@pytest.mark.parametrize("dropped", [True, False])
def test_no_parameter_is_left_out_whatever_captions_are_dropped(shape, dropped):
    """All ranks reduce every gradient in every step: one without would hold up all."""
    unet = fresh(shape, lowres_cond=True)
    drop = torch.full((3,), dropped)
    unet(*inputs(unet, drop=drop)).square().mean().backward()
    assert [n for n, p in unet.named_parameters() if p.grad is None] == []


def test_dropout_acts_in_training_alone(wake):
    unet = wake(fresh({"dropout": 0.5}))
    given = inputs(unet)
    assert not unet(*given).equal(unet(*given))
    unet.eval()
    assert unet(*given).equal(unet(*given))


@shapes
@both_links
def test_recomputed_activations_give_the_same_gradients_and_fewer_are_kept(
    shape, lowres_cond, wake
):
    kept, gradients = [], []
    for recompute in (False, True):
        unet = wake(fresh(shape | {"dropout": 0.2}, lowres_cond))
        unet.recompute_activations(recompute)
        arguments = inputs(unet)
        torch.manual_seed(3)  # dropout must come out the same the second time
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            out = unet(*arguments)
        kept.append(sum(sizes))
        out.square().mean().backward()
        gradients.append([p.grad for p in unet.parameters()])
    assert kept[1] < 0.8 * kept[0]
    for one, other in zip(*gradients, strict=True):
        assert one.equal(other)
