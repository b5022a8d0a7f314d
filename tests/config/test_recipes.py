"""Recipes: which cascade for a side, a number of images, some minutes."""

import pytest

from minimagen.config import ImagenConfig, TrainingConfig
from minimagen.config.recipes import FEW_IMAGES, recipe_for
from minimagen.errors import UserError


@pytest.mark.parametrize(
    ("side", "sizes"),
    [(28, (28,)), (32, (32,)), (48, (48,)), (64, (64,)), (96, (48, 96)), (128, (64, 128)),
     (256, (64, 256))],
)  # fmt: skip
def test_every_recipe_is_a_cascade_that_can_be_trained(side: int, sizes: tuple[int, ...]) -> None:
    recipe = recipe_for(side, 10_000, 20.0)
    assert recipe.image_sizes == sizes
    values = dict(recipe.values())
    imagen = ImagenConfig.read(
        {"image_sizes": values["imagen", "image_sizes"], "stages": values["imagen", "stages"]}, "x"
    )
    assert [max(size) for size in imagen.image_sizes] == list(sizes)
    training = TrainingConfig.read(
        {"minutes": 20.0, "learners": values["training", "learners"]}, "x"
    )
    assert len(training.learners) == len(imagen.stages)


@pytest.mark.parametrize("side", [2, 27, 30, 100, 250])
def test_a_side_that_no_network_fits_is_answered_with_two_that_do(side: int) -> None:
    with pytest.raises(UserError) as error:
        recipe_for(side, None, 20.0)
    named = [int(word) for word in str(error.value).partition("use ")[2].split() if word.isdigit()]
    assert named
    for valid in named:
        assert recipe_for(valid, None, 20.0).image_sizes[-1] == valid


def test_few_images_get_dropout_and_the_reason_says_how_many() -> None:
    few, many = recipe_for(64, FEW_IMAGES - 1, 20.0), recipe_for(64, FEW_IMAGES, 20.0)
    assert few.stages[0].unet.dropout > 0 == many.stages[0].unet.dropout
    assert any(str(FEW_IMAGES - 1) in reason for _, reason in few.reasons)
    assert recipe_for(64, None, 20.0) == many


def test_more_minutes_give_a_wider_network_a_lower_rate_and_a_longer_average() -> None:
    recipes = [recipe_for(64, None, minutes) for minutes in (2.0, 20.0, 60.0)]
    widths = [recipe.stages[0].unet.dim for recipe in recipes]
    decays = [recipe.training[0].ema_decay for recipe in recipes]
    rates = [recipe.training[0].optim_lr for recipe in recipes]
    assert widths == sorted(set(widths))
    at_limit = [recipe_for(32, None, minutes).stages[0].unet.dim for minutes in (3.9, 4.0)]
    assert at_limit == [32, 48]
    assert rates == sorted(set(rates), reverse=True)
    assert decays == sorted(set(decays))


def test_a_gpu_has_the_widest_network_large_batches_and_a_reason() -> None:
    short, long = (recipe_for(128, None, minutes, gpu=True) for minutes in (1.0, 60.0))
    assert short.stages == long.stages == recipe_for(128, None, 60.0).stages
    assert [each.batch_size for each in short.training] == [256, 128]
    assert short.training[0].ema_decay < long.training[0].ema_decay == 0.99861
    assert ("batch_size" in dict(short.reasons)) and "a GPU" in dict(short.reasons)["parameters"]
    assert "batch_size" not in dict(recipe_for(128, None, 1.0).reasons)


def test_small_images_are_sampled_with_noise_and_learned_to_the_end() -> None:
    small, large = (recipe_for(side, None, 20.0) for side in (32, 64))
    stages = small.stages[0], large.stages[0]
    assert [stage.sampling.sampler for stage in stages] == ["ddpm", "ddim"]
    assert [stage.loss.time_shift_at(0.0) for stage in stages] == [40.0, 80.0]
    assert [stage.loss.time_shift_at(1.0) for stage in stages] == [1.0, 16.0]
    assert any("ddpm in 32 steps" in reason for _, reason in small.reasons)


def test_sides_that_were_not_measured_are_marked() -> None:
    assert not any("untested" in reason for _, reason in recipe_for(64, None, 20.0).reasons)
    assert any("untested" in reason for _, reason in recipe_for(256, None, 20.0).reasons)


def test_millions_of_images_leave_some_for_validation() -> None:
    assert 0.0 < 1.0 - recipe_for(64, 12_000_000, 20.0).train_valid_frac <= 1e-4 + 1e-9
