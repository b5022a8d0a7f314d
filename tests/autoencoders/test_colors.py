"""The colors of an image apart from the rest."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from minimagen.autoencoders.build import KINDS
from minimagen.autoencoders.colors import MOST, NUMBERS, SHORT, SPAN, Colors
from minimagen.autoencoders.discrete import DiscreteAutoencoder
from minimagen.config import AutoencoderConfig
from minimagen.draws import Draws
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.images import Batch, psnr, to_uint8
from minimagen.stages.build import build
from minimagen.storage.directory import read_parameters

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
        deviations = square / (SPAN * (square + SHORT**2))
        torch.testing.assert_close(
            torch.cov(each, correction=0), torch.diag(deviations**2), atol=1e-5, rtol=1e-4
        )


def test_restored_is_the_inverse_of_removed() -> None:
    images = random_images() / 2
    colors = Colors.of(images)
    back = colors.restored(colors.removed(images))
    squares = (colors.axes**2).sum(1)
    shrunk = (1 - squares / (squares + SHORT**2)).max()  # the price of the shortest axis
    assert float((back - images).abs().max()) < 2 * float(shrunk)
    coded = Colors.from_codes(colors.codes(1000), 1000)
    near = coded.restored(coded.removed(images))
    assert float(psnr(near, images).min()) > 45


@pytest.mark.parametrize("count", [32, 240, 1000])
def test_codes_are_the_nearest_values_and_0_is_one_of_them(count: int) -> None:
    colors = Colors.of(random_images())
    codes = colors.codes(count)
    assert codes.shape == (5, NUMBERS) and 0 <= int(codes.min()) and int(codes.max()) < count
    again = Colors.from_codes(codes, count)
    step = 1 / ((count - 1) // 2)
    for one, other in zip(colors, again, strict=True):
        assert float((one - other).abs().max()) <= step / 2 + 1e-6
    torch.testing.assert_close(again.codes(count), codes)
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
    assert float(colors.removed(image).max()) == MOST


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
    red, white = (coder.tokenize(drawn(*pair)) for pair in ((RED, BLUE), (WHITE, BLACK)))
    torch.testing.assert_close(coder.reconstruct(drawn(RED, BLUE)), coder.detokenize(red))
    mixed = torch.cat([white[:, :2], red[:, 2:]], dim=1)
    assert coder.detokenize(mixed).equal(coder.detokenize(white))
    gray = coder.detokenize(white)[0]
    torch.testing.assert_close(gray[0], gray[1], atol=0.03, rtol=0)


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
    gpt = Imagen(config).stages[0].gpt
    assert gpt.grid == (10, 8)
