"""Autoencoders: against diffusers, against closed forms, and what is kept of them."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minimagen.autoencoders.build import KINDS, build, load
from minimagen.autoencoders.cache import LatentCache
from minimagen.autoencoders.discrete import (
    DiscreteAutoencoder,
    FiniteScalars,
    GumbelSoftmax,
    usage,
)
from minimagen.autoencoders.files import load_folder, save_folder
from minimagen.autoencoders.kl import KLAutoencoder
from minimagen.autoencoders.tiny import TinyAutoencoder
from minimagen.autoencoders.training import TrainedAutoencoder, laplacian_error
from minimagen.config import AutoencoderConfig
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.images import Batch, to_uint8

SMALL: dict[str, Any] = {"image_size": 16, "block_out_channels": (8, 16), "norm_num_groups": 4}
TAESD: dict[str, Any] = {
    "kind": "tiny", "image_size": 32, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 3,
    "norm_num_groups": 1,
}  # fmt: skip


def make(kind: str, **changes: Any) -> TrainedAutoencoder:
    torch.manual_seed(0)
    return KINDS[kind](0, AutoencoderConfig(**{**SMALL, "kind": kind, **changes}))


def images(count: int = 4, side: int = 16, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=random) * 2 - 1


def batch(x: Tensor) -> Batch:
    return Batch(to_uint8(x), torch.zeros(len(x), 1, 1), torch.ones(len(x), 1, dtype=torch.bool))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mid_block_add_attention": True, "use_quant_conv": True, "use_post_quant_conv": True},
        {"layers_per_block": 2, "latent_channels": 8, "block_out_channels": (8, 16, 16)},
    ],
)
def test_kl_is_that_of_diffusers_both_ways(tmp_path: Path, changes: dict[str, Any]) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = KLAutoencoder(0, AutoencoderConfig(**{**SMALL, **changes})).eval()
    save_folder(ours, tmp_path)
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path).eval()
    x = images()
    with torch.no_grad():
        mean, log_variance = ours.network.encode(x)
        posterior = theirs.encode(x).latent_dist
        torch.testing.assert_close(mean, posterior.mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(log_variance, posterior.logvar, rtol=0, atol=1e-5)
        decoded = theirs.decode(mean).sample
        torch.testing.assert_close(ours.network.decode(mean), decoded, rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "back" / "vae")
    again = load(str(tmp_path / "back"))
    with torch.no_grad():
        torch.testing.assert_close(again.network.encode(x)[0], mean, rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in again.parameters())


def test_tiny_is_taesd_of_diffusers_both_ways(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
    ).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_folder(tmp_path / "theirs")
    assert isinstance(ours, TinyAutoencoder) and ours.factor == 8
    x = images(side=32)
    with torch.no_grad():
        latents = ours.network.encode(x)
        torch.testing.assert_close(latents, theirs.encode(x).latents, rtol=0, atol=1e-5)
        decoded = theirs.decode(latents).sample
        torch.testing.assert_close(ours.network.decode(latents), decoded, rtol=0, atol=1e-5)
    own = TinyAutoencoder(0, AutoencoderConfig(**TAESD)).eval()
    save_folder(own, tmp_path / "ours")
    back = diffusers.AutoencoderTiny.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        latents = own.network.encode(x)
        torch.testing.assert_close(back.encode(x).latents, latents, rtol=0, atol=1e-5)
        decoded = back.decode(latents).sample
        torch.testing.assert_close(own.network.decode(latents), decoded, rtol=0, atol=1e-5)


def test_the_scale_of_diffusers_is_applied_in_one_place(tmp_path: Path) -> None:
    """With scaling_factor and shift_factor, as its pipelines do: (z - shift) x scaling."""
    config = AutoencoderConfig(**SMALL, scaling_factor=0.3, shift_factor=0.1)
    ours = KLAutoencoder(0, config).eval()
    save_folder(ours, tmp_path)
    x = images()
    with torch.no_grad():
        z = ours.network.encode(x)[0]
        torch.testing.assert_close(load(str(tmp_path)).encode(x), (z - 0.1) * 0.3)
        torch.testing.assert_close(ours.decode((z - 0.1) * 0.3), ours.network.decode(z))


@pytest.mark.parametrize("kind", KINDS)
def test_measured_latents_have_mean_0_and_variance_1_and_decode_as_before(kind: str) -> None:
    autoencoder = make(kind).eval()
    batches = [batch(images(seed=i, count=32)) for i in range(4)]
    with torch.no_grad():
        before = autoencoder.reconstruct(images())
        lines = autoencoder.conclude(batches, batches)
        values = [
            autoencoder.scaled(autoencoder.unscaled(each.images.float() / 127.5 - 1))
            for each in batches
        ]
        latents = torch.cat(values).transpose(0, 1).flatten(1)
        assert autoencoder.encode(images()).isfinite().all()  # also where a channel is constant
        varies = torch.tensor(autoencoder.config.latents_std) != 1.0  # those that are constant
        assert latents.mean(1).abs().max() < 1e-3
        torch.testing.assert_close(
            latents.std(1)[varies], torch.ones(int(varies.sum())), rtol=0, atol=1e-3
        )
        assert autoencoder.sampled(autoencoder.moments(images()), None).abs().max() > 0
        if varies.all():  # coded and decoded by the scale that was measured
            latents = autoencoder.encode(images(seed=9))
            autoencoder.config = autoencoder.config.unmeasured()
            again = autoencoder.decode(autoencoder.encode(images(seed=9)))
            autoencoder.conclude(batches, batches)
            torch.testing.assert_close(autoencoder.decode(latents), again, rtol=0, atol=1e-4)
            torch.testing.assert_close(autoencoder.reconstruct(images()), before, rtol=0, atol=1e-4)
    assert "PSNR" in lines[0]


def test_the_kl_loss_has_its_closed_form() -> None:
    """Error of a decoded sample + weight x KL(N(mean, std) || N(0, 1)) / number of pixels."""
    autoencoder = KLAutoencoder(0, AutoencoderConfig(**SMALL, kl_weight=0.5))
    x, draws = images(), Draws(0, "autoencoder_0", 3, 4)
    given = batch(x)
    pixels = given.images.float() / 127.5 - 1
    mean, log_variance = autoencoder.network.encode(pixels)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    divergence = torch.distributions.kl_divergence(normal, standard).flatten(1).sum(1)
    sample = mean + normal.scale * draws.normal("posterior", mean.shape[1:])
    error = laplacian_error(autoencoder.network.decode(sample), pixels, 3)
    expected = error + 0.5 * divergence / (3 * 16 * 16)
    torch.testing.assert_close(autoencoder.loss(given, draws), expected)


def test_the_pyramid_of_a_constant_difference_is_its_last_level() -> None:
    x = images()
    torch.testing.assert_close(laplacian_error(x, x + 0.25, 3), torch.full((4,), 0.25))
    checker = torch.zeros(1, 3, 8, 8)
    checker[..., ::2, ::2] = checker[..., 1::2, 1::2] = 1.0
    checker = 2 * checker - 1  # nothing is left of it at half the size
    torch.testing.assert_close(laplacian_error(checker, 0 * checker, 3), torch.ones(1))


@pytest.mark.parametrize("levels", [(8, 6, 5), (8, 5, 5, 5), (2, 3), (7,)])
def test_fsq_codes_and_vectors_are_one_to_one(levels: tuple[int, ...]) -> None:
    quantiser = FiniteScalars(levels)
    codes = torch.arange(math.prod(levels)).reshape(1, 1, -1)
    vectors = quantiser.vectors(codes)
    assert vectors.abs().max() <= 1.0
    distinct = {tuple(v) for v in vectors[0, :, 0].T.tolist()}
    assert len(distinct) == math.prod(levels) == quantiser.codes
    by_hand = list(itertools.product(*[range(n) for n in levels[::-1]]))
    for code in (0, quantiser.codes // 2, quantiser.codes - 1):
        digits = by_hand[code][::-1]
        expected = [d / (n // 2) - 1 for d, n in zip(digits, levels, strict=True)]
        torch.testing.assert_close(vectors[0, :, 0, code], torch.tensor(expected))
    # features that round to a code's vector give that code: tanh and its shift undone
    half = (torch.tensor(levels) - 1) * 1.001 / 2
    offset = 0.5 * (torch.tensor(levels) % 2 == 0)
    whole = vectors * (torch.tensor(levels) // 2)[:, None, None]
    inside = ((whole + offset[:, None, None]) / half[:, None, None]).clamp(-0.9999, 0.9999)
    features = torch.atanh(inside) - torch.atanh(offset / half)[:, None, None]
    assert torch.equal(quantiser.chosen(features), codes)


def test_a_stage_trains_on_drawn_latents_of_kl() -> None:
    autoencoder, draws = make("kl").eval(), Draws(0, "unet_0", 0, 4)
    with torch.no_grad():
        moments = autoencoder.moments(images())
        mean, std = moments.chunk(2, 1)
        eps = draws.normal("posterior", mean.shape[1:])
        drawn = autoencoder.scaled(mean + std * eps)
        torch.testing.assert_close(autoencoder.sampled(moments, draws), drawn)
        assert not torch.allclose(autoencoder.sampled(moments, None), drawn)


def test_codes_of_many_levels_stay_in_range() -> None:
    quantiser = FiniteScalars((2000,))
    extreme = torch.tensor([-50.0, 50.0]).reshape(1, 1, 1, 2)
    assert quantiser.chosen(extreme).flatten().tolist() == [0, 1999]


def test_an_odd_side_and_too_many_codes() -> None:
    assert laplacian_error(torch.ones(1, 3, 50, 50), torch.zeros(1, 3, 50, 50), 3).item() == 1.0
    with pytest.raises(UserError, match="262144 codes are more than 65536"):
        AutoencoderConfig.read(SMALL | {"kind": "fsq", "levels": [8] * 6}, "x")


def test_fsq_rounds_forward_and_passes_the_bounds_gradient_backward() -> None:
    quantiser, draws = FiniteScalars((8, 5)), Draws(0, "x", 0, 2)
    features = torch.randn(2, 2, 3, 3, requires_grad=True)
    vectors, extra = quantiser.relaxed(features, draws)
    hard = quantiser.vectors(quantiser.chosen(features))
    torch.testing.assert_close(vectors, hard)
    assert not extra.any()
    (gradient,) = torch.autograd.grad(vectors.sum(), features)
    bounded = quantiser._bounded(features) / quantiser._half_width()
    (expected,) = torch.autograd.grad(bounded.sum(), features)
    torch.testing.assert_close(gradient, expected)
    assert (gradient != 0).all()


def test_gumbels_relaxation_is_sharp_at_the_end_and_its_kl_is_that_from_uniform() -> None:
    config = AutoencoderConfig(**SMALL, kind="gumbel", num_codes=6, codebook_dim=4, kl_weight=2.0)
    quantiser = GumbelSoftmax(config)
    logits = torch.randn(3, 6, 2, 2)
    late = Draws(0, "x", 0, 3, progress=1.0)
    vectors, extra = quantiser.relaxed(logits, late)
    table = quantiser.codebook.weight
    distances = torch.cdist(vectors.movedim(1, -1).reshape(-1, 4), table)
    assert (distances.min(1).values < 1e-5).all()
    p = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    expected = 2.0 * (math.log(6) - p.entropy()).flatten(1).mean(1)
    torch.testing.assert_close(extra, expected)
    early = quantiser.relaxed(logits, Draws(0, "x", 0, 3, progress=0.0))
    assert not early[1].any()
    again = quantiser.vectors(quantiser.chosen(logits))
    torch.testing.assert_close(again.movedim(1, -1), table[logits.argmax(1)])


@pytest.mark.parametrize("kind", ["fsq", "gumbel"])
def test_every_parameter_of_a_discrete_autoencoder_learns(kind: str) -> None:
    autoencoder = make(kind, num_codes=16, codebook_dim=8).train()
    loss = autoencoder.loss(batch(images()), Draws(0, autoencoder.name, 0, 4, progress=0.7)).sum()
    loss.backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("kind", ["fsq", "gumbel"])
def test_evaluation_uses_the_codes_that_are_used(kind: str) -> None:
    autoencoder = make(kind).eval()
    assert isinstance(autoencoder, DiscreteAutoencoder)
    x = images()
    given = batch(x)
    pixels = given.images.float() / 127.5 - 1
    with torch.no_grad():
        hard = autoencoder.detokenize(autoencoder.tokenize(pixels))
        loss = autoencoder.loss(given, Draws(0, autoencoder.name, 0, 4))
        torch.testing.assert_close(loss, laplacian_error(hard, pixels, 3))
        torch.testing.assert_close(autoencoder.shown(given)[1], hard.clamp(-1, 1))
        torch.testing.assert_close(autoencoder.decode(autoencoder.encode(pixels)), hard)


def test_usage_counts_codes_and_their_evenness() -> None:
    assert usage(torch.tensor([5.0, 5.0, 0.0, 0.0])) == (0.5, pytest.approx(2.0))
    assert usage(torch.ones(8)) == (1.0, pytest.approx(8.0))


def test_latents_are_encoded_once_and_found_by_their_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIMAGEN_CACHE", str(tmp_path))
    autoencoder, counted = make("kl").eval(), []

    def encode(x: Tensor) -> Tensor:
        counted.append(len(x))
        return autoencoder.moments(x)

    x = to_uint8(images(20))
    cache = LatentCache(encode, autoencoder.fingerprint, torch.device("cpu"))
    first = cache(x)
    assert sum(counted) == 32  # two full blocks of 16
    with torch.no_grad():
        exact = autoencoder.moments(x.float() / 127.5 - 1)
    torch.testing.assert_close(first, exact, rtol=1e-2, atol=1e-2)
    again = LatentCache(encode, autoencoder.fingerprint, torch.device("cpu"))
    assert torch.equal(again(x.flip(0)), first.flip(0))
    assert torch.equal(again(x), first)
    assert sum(counted) == 32 + 1  # one image alone, for its shape
    mirrored = again(x.flip(3))
    assert sum(counted) == 33 + 32
    assert not torch.equal(mirrored, first)  # a mirrored image has other latents
    LatentCache(encode, "another", torch.device("cpu"))(x[:1])
    assert sum(counted) == 33 + 32 + 16


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no autoencoder"),
        ({"config.json": '{"_class_name": "UNet2DConditionModel"}'}, "neither AutoencoderKL nor"),
        ({"config.json": '{"_class_name": "AutoencoderKL"}'}, "has no diffusion_pytorch_model"),
        (
            {"config.json": '{"_class_name": "AutoencoderKL"}', "diffusion_pytorch_model.bin": "x"},
            "may run code and is not read",
        ),
        (
            {
                "config.json": '{"_class_name": "AutoencoderKL"}',
                "diffusion_pytorch_model.safetensors": "x",
            },
            "is damaged",
        ),
    ],
)
def test_what_is_no_autoencoder_is_one_line(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words) as raised:
        build(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_folder(KLAutoencoder(0, AutoencoderConfig(**SMALL)), tmp_path)
    config = (
        (tmp_path / "config.json")
        .read_text()
        .replace('"latent_channels": 4', '"latent_channels": 3')
    )
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="is not of its config.json"):
        load_folder(tmp_path)
