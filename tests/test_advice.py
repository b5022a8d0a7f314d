"""Warnings come exactly where their numbers cross a limit, with the numbers and with what to do."""

from minimagen.advice import (
    BURNT,
    EPOCHS,
    FEW,
    Losses,
    burning,
    enlarged,
    few_images,
    many_epochs,
    memorizing,
    undertrained,
)


def words(warning: str | None, *expected: str) -> None:
    assert warning is not None and "\n" not in warning
    for word in expected:
        assert word in warning, (word, warning)


def test_many_epochs_over_few_images() -> None:
    assert many_epochs("stage 0", 456, EPOCHS) is None
    words(
        many_epochs("stage 1", 456, 213.4),
        "stage 1",
        "456 images 213 times",
        "`weights` best",
        "`from`",
    )


def history(*values: tuple[float, float]) -> list[Losses]:
    return [Losses(500 * (i + 1), *pair) for i, pair in enumerate(values)]


def test_validation_that_rises_while_training_falls() -> None:
    rising = history((0.3, 0.31), (0.2, 0.25), (0.15, 0.27), (0.1, 0.3))
    numbers = ["since step 1000", "from 0.2500 to 0.3000", "from 0.2000 to 0.1000"]
    words(memorizing("stage 0", rising), "stage 0", *numbers, "`weights` best")


def test_losses_that_are_no_memorizing() -> None:
    falling = history((0.3, 0.31), (0.2, 0.25), (0.15, 0.24))
    training_rises = history((0.3, 0.31), (0.2, 0.25), (0.25, 0.27), (0.21, 0.3))
    within_noise = history((0.3, 0.31), (0.2, 0.25), (0.15, 0.251), (0.1, 0.254))
    only_once = history((0.3, 0.31), (0.2, 0.25), (0.1, 0.4))
    unknown = history((float("nan"), 0.25), (0.2, 0.3), (0.1, 0.4))
    for losses in (falling, training_rises, within_noise, only_once, unknown, falling[:1]):
        assert memorizing("stage 0", losses) is None


def test_images_that_are_smaller_than_the_side() -> None:
    assert enlarged(0, 512) is None
    words(enlarged(3, 512), "3 of the first 512", "`img_side_len`", "`where`")


def test_super_resolution_that_is_worse_than_enlarging() -> None:
    assert undertrained(1, 1.0) is None
    words(undertrained(1, 1.19), "stage 1", "1.19 times", "Train it longer", "`stages` 1")


def test_guidance_that_drives_values_out_of_range() -> None:
    assert burning(0, BURNT, 7.5) is None
    words(burning(0, 0.152, 7.5), "guidance 7.5", "15 %", "stage 0", "lower `guidance_scale`")


def test_few_images_and_a_cascade_that_fits() -> None:
    assert few_images(FEW, "pretrained/emoji") is few_images(None, "pretrained/emoji") is None
    words(few_images(456, "pretrained/emoji"), "456 images", "`from` pretrained/emoji")
