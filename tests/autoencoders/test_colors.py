"""The colors of an image apart from the rest."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from minimagen.autoencoders.build import KINDS
from minimagen.autoencoders.cache import LatentCache
from minimagen.autoencoders.colors import (
    FINEST,
    LEAST_LENGTH,
    LIMIT,
    NUMBERS,
    UNIT,
    Colors,
    principal,
)
from minimagen.autoencoders.discrete import DiscreteAutoencoder
from minimagen.autoencoders.training import ENCODES
from minimagen.config import AutoencoderConfig, TokenConfig
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.images import Batch, psnr, to_uint8
from minimagen.stages.build import build
from minimagen.stages.tokens import TokenStage
from minimagen.storage.directory import read_parameters
from minimagen.storage.pretrained import fingerprint_of

DALLE = Path(__file__).parents[2] / "parameters" / "dalle"
RED, BLUE, WHITE, BLACK = ((1, -1, -1), (-1, -1, 1), (1, 1, 1), (-1, -1, -1))


def drawn(color: tuple[int, ...], ground: tuple[int, ...], side: int = 16) -> Tensor:
    """A soft stroke of one color on another, [1 3 side side]."""
    mask = torch.zeros(side, side)
    mask[3:9, 4:7], mask[9, 4:7] = 1.0, 0.4
    pair = [torch.tensor(each, dtype=torch.float32)[:, None, None] for each in (color, ground)]
    return (mask * pair[0] + (1 - mask) * pair[1])[None]


def random_images(count: int = 5, side: int = 16) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(count, 3, side, side, generator=random).clamp(-2.5, 2.5)


def autoencoder(**changes: object) -> DiscreteAutoencoder:
    torch.manual_seed(0)
    small = {"image_size": 16, "block_out_channels": (8, 16), "norm_num_groups": 4, "kind": "fsq"}
    config = AutoencoderConfig(**{**small, "levels": (8, 6, 5), "color_codes": True, **changes})
    made = KINDS[config.kind](0, config).eval()
    assert isinstance(made, DiscreteAutoencoder)
    return made


def test_axes_are_the_square_root_of_the_covariance() -> None:
    images = random_images().double()
    colors = Colors.of(images.float())
    for image, mean, axes in zip(images, *colors, strict=True):
        pixels = image.flatten(1)
        covariance = torch.cov(pixels, correction=0)
        torch.testing.assert_close(mean.double(), pixels.mean(1), atol=1e-6, rtol=0)
        torch.testing.assert_close((axes @ axes.T).double(), covariance, atol=1e-6, rtol=1e-5)
        lengths = axes.norm(dim=0)
        assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)


def test_without_its_colors_an_image_has_mean_0_no_correlation_and_the_known_deviation() -> None:
    images = random_images(2, 64) / 4  # nothing is cut
    removed = Colors.of(images).removed(images).flatten(2).double()
    assert float(removed.mean(2).abs().max()) < 1e-5
    squares = (Colors.of(images).axes ** 2).sum(1).double()
    for each, square in zip(removed, squares, strict=True):
        deviations = square / (UNIT * (square + LEAST_LENGTH**2))
        torch.testing.assert_close(
            torch.cov(each, correction=0), torch.diag(deviations**2), atol=1e-5, rtol=1e-4
        )


def test_restored_is_the_inverse_of_removed() -> None:
    images = random_images() / 2
    colors = Colors.of(images)
    back = colors.restored(colors.removed(images))
    squares = (colors.axes**2).sum(1)
    shrunk = (1 - squares / (squares + LEAST_LENGTH**2)).max()  # the price of the shortest axis
    assert float((back - images).abs().max()) < 2 * float(shrunk)
    coded = Colors.from_codes(colors.codes(1000), 1000)
    near = coded.restored(coded.removed(images))
    assert float(psnr(near, images).min()) > 45


@pytest.mark.parametrize("count", [32, 240, 1000])
def test_codes_are_the_nearest_values_and_0_is_one_of_them(count: int) -> None:
    colors = Colors.of(random_images())
    codes = colors.codes(count)
    values = min(count, FINEST)  # no finer than pixels are
    assert codes.shape == (5, NUMBERS) and 0 <= int(codes.min()) and int(codes.max()) < values
    again = Colors.from_codes(codes, count)
    step = 1 / ((values - 1) // 2)
    for one, other in zip(colors, again, strict=True):
        assert float((one - other).abs().max()) <= step / 2 + 1e-6
    torch.testing.assert_close(again.codes(count), codes)
    largest = Colors.from_codes(torch.full((1, NUMBERS), count - 1), count)
    assert float(largest.mean.max()) == float(largest.axes.max()) == 1.0  # not out of range
    flat = Colors.of(torch.full((1, 3, 8, 8), 0.5))
    assert not Colors.from_codes(flat.codes(count), count).axes.any()


def test_in_any_two_colors_a_drawing_is_the_same_without_them() -> None:
    pairs = [(RED, BLUE), (BLUE, RED), (WHITE, BLACK), (BLACK, WHITE), (RED, WHITE)]
    removed = []
    for color, ground in pairs:
        image = drawn(color, ground)
        colors = Colors.of(image)
        colors = Colors.from_codes(colors.codes(240), 240)
        removed.append(colors.removed(image))
        assert float((colors.restored(removed[-1]) - image).abs().max()) < 0.03
    for other in removed[1:]:
        torch.testing.assert_close(other, removed[0], atol=0.02, rtol=0)


def test_what_is_far_out_is_cut() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[..., 0, 0] = 1.0  # 16 standard deviations from the mean
    colors = Colors.of(image)
    assert float(colors.removed(image).max()) == LIMIT


def test_only_the_first_codes_depend_on_the_colors() -> None:
    coder = autoencoder()
    red, white = (coder.tokenize(drawn(*pair)) for pair in ((RED, BLUE), (WHITE, BLACK)))
    assert red.shape == (1, 10, 8) == (1, *coder.grid((16, 16)))
    assert red[:, 2:].equal(white[:, 2:]) and not red[:, :2].equal(white[:, :2])
    assert not red.flatten(1)[:, NUMBERS:16].any()  # where two rows leave room
    assert not torch.equal(*(autoencoder(color_codes=False).tokenize(drawn(*pair)) for pair in
                             ((RED, BLUE), (WHITE, BLACK))))  # fmt: skip


def test_colors_of_codes_color_what_is_decoded() -> None:
    coder = autoencoder()
    red, noise = coder.tokenize(drawn(RED, BLUE)), coder.tokenize(random_images(1))
    torch.testing.assert_close(coder.reconstruct(drawn(RED, BLUE)), coder.detokenize(red))
    mixed = coder.detokenize(torch.cat([red[:, :2], noise[:, 2:]], dim=1))
    colors = Colors.from_codes(red.flatten(1)[:, :NUMBERS], coder.codes)
    bare = coder.network.decode(coder.network.quantiser.vectors(noise[:, 2:]))
    torch.testing.assert_close(mixed, colors.restored(bare))
    pixels = mixed.flatten(2) - colors.mean[..., None]  # between red and blue: one axis has length
    assert float(pixels[:, 1].abs().max()) < 0.02 < float(pixels[:, 0].abs().max())


@pytest.mark.parametrize(("width", "rows"), [(4, 3), (8, 2), (12, 1), (16, 1)])
def test_codes_of_colors_fill_whole_rows(width: int, rows: int) -> None:
    coder = autoencoder(kind="gumbel", num_codes=40, codebook_dim=4)
    images = random_images(2, 32)[:, :, :20, : 2 * width]
    codes = coder.tokenize(images)
    assert codes.shape == (2, rows + 10, width) == (2, *coder.grid((20, 2 * width)))
    again = Colors.from_codes(codes.flatten(1)[:, :NUMBERS], 40)
    torch.testing.assert_close(again.mean, images.flatten(2).mean(2), atol=1 / 38, rtol=0)
    assert coder.detokenize(codes).shape == images.shape


def test_nothing_is_gray() -> None:
    coder = autoencoder()
    blank = coder.blank(coder.grid((16, 16)))
    assert not coder.detokenize(blank).any()


def test_images_are_encoded_alike_in_any_batch_in_bfloat16_and_from_the_cache() -> None:
    coder, images = autoencoder(), random_images(5)
    alone = torch.cat([coder.tokenize(image[None]) for image in images])
    assert coder.tokenize(images).equal(alone)
    with torch.autocast("cpu", torch.bfloat16):
        assert coder.tokenize(images).equal(alone)
    given = to_uint8(images)
    cache = LatentCache(lambda x: coder.tokenize(x)[:, None].float(), "colors", torch.device("cpu"))
    exact = coder.tokenize(given.float() / 127.5 - 1)
    assert cache(given)[:, 0].long().equal(exact) and cache(given)[:, 0].long().equal(exact)


def test_the_loss_is_of_colored_images_and_its_codes_are_those_of_tokenize() -> None:
    coder = autoencoder(pyramid_levels=1)
    images = torch.cat([drawn(RED, BLUE), drawn(BLACK, WHITE)])
    given = to_uint8(images)
    batch = Batch(given, torch.zeros(2, 1, 1), torch.ones(2, 1, dtype=torch.bool))
    exact = given.float() / 127.5 - 1
    expected = (coder.reconstruct(exact) - exact).abs().flatten(1).mean(1)
    with torch.no_grad():
        torch.testing.assert_close(coder.loss(batch, Draws(0, "x", 0, 2)), expected)


def test_usage_counts_no_codes_of_colors() -> None:
    coder = autoencoder()
    assert int(coder.counts(drawn(RED, BLUE)).sum()) == 64
    assert coder.moments(drawn(RED, BLUE)).shape == (1, 3, 8, 8)


def test_the_fingerprint_says_whether_colors_are_codes_and_else_stays() -> None:
    with_colors, without = autoencoder(), autoencoder(color_codes=False)
    without.load_state_dict(with_colors.state_dict())
    assert with_colors.fingerprint != without.fingerprint
    before = fingerprint_of(without, without.config.model_dump_json(include=ENCODES))
    assert without.fingerprint == before  # that of directories from before there was color_codes


def test_latents_without_colors_are_no_images() -> None:
    coder = autoencoder()
    with pytest.raises(UserError, match="its latents say nothing of colors"):
        coder.decode(coder.encode(random_images()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jacobis_rotations_find_the_principal_axes(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    points = (
        torch.randn(50, 3, 9, generator=random, dtype=dtype) * torch.tensor([2.0, 1, 0.1])[:, None]
    )
    matrices = torch.cat([points @ points.mT, torch.zeros(1, 3, 3), torch.eye(3)[None]]).to(dtype)
    values, vectors = principal(matrices)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-4
    expected = torch.linalg.eigvalsh(matrices).flip(1)
    torch.testing.assert_close(values, expected, atol=tolerance, rtol=tolerance)
    again = vectors @ torch.diag_embed(values) @ vectors.mT
    torch.testing.assert_close(again, matrices, atol=tolerance, rtol=tolerance)
    eye = torch.eye(3, dtype=dtype).expand_as(matrices)
    torch.testing.assert_close(vectors.mT @ vectors, eye, atol=1e-5, rtol=0)


def test_what_cannot_have_colors_apart_is_one_line() -> None:
    with pytest.raises(UserError, match="at least 32 codes of kind fsq or gumbel, not 6 codes"):
        AutoencoderConfig.read(
            {"kind": "fsq", "image_size": 16, "levels": [2, 3], "color_codes": True}, "a.json"
        )
    with pytest.raises(UserError, match="not kind kl"):
        AutoencoderConfig.read({"image_size": 16, "color_codes": True}, "a.json")
    latent, _, _ = read_parameters(DALLE.parent / "latent")
    coder = {"kind": "fsq", "image_size": 64, "color_codes": True, "levels": [8, 5, 5, 5]}
    with pytest.raises(UserError, match="autoencoder 0 has color_codes, which stages of tokens"):
        type(latent).read(latent.model_dump() | {"autoencoders": [coder]}, "imagen.json")
    frozen = autoencoder(levels=(4, 4, 4, 4))
    stage = latent.stages[0].replace(autoencoder="elsewhere")
    with pytest.raises(UserError, match="stage 0 denoises latents, but its autoencoder has color"):
        build(0, stage, (64, 64), None, 8, frozen)


def test_the_preset_has_a_row_more_for_each_eight_codes_of_colors() -> None:
    config, _, _ = read_parameters(DALLE)
    stage = Imagen(config).stages[0]
    assert isinstance(stage, TokenStage) and stage.gpt.grid == (10, 8)
    assert stage.preview(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 3, 32, 32)
    by_channels = {"gpt": {"dim": 8, "depth": 1, "heads": 1, "head": "channels"}, "autoencoder": 0}
    with pytest.raises(UserError, match="codes of colors .color_codes. have no channels"):
        build(0, TokenConfig(**by_channels), (32, 32), None, 8, stage.autoencoder)
