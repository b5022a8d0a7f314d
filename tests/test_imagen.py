import numpy as np
import pytest
import torch

from minimagen.config import ImagenConfig
from minimagen.errors import UserError
from minimagen.imagen import Imagen, to_pil

pytestmark = pytest.mark.usefixtures("one_thread")

CAPTIONS = ["a red star", "blue", "two green cats sleep", "a blue star on red", "night"]
UNET = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_head_dim": 4}
SAMPLING = {"timesteps": 3, "guidance_scale": 2.0, "aug_level": 0.2}


@pytest.fixture
def imagen(text_encoder, wake):
    sampling = [SAMPLING | {"sampler": name} for name in ("ddpm", "dpm++")]
    config = ImagenConfig(
        image_sizes=[[8, 12], [16, 24]], stages=[{"unet": UNET, "sampling": s} for s in sampling]
    )
    return wake(Imagen(config, text_encoder)).eval()


def pixels(pictures):
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def test_a_caption_becomes_a_picture_of_the_last_stages_size(imagen):
    pictures = imagen.sample(CAPTIONS[:2], seed=0)
    assert [p.size for p in pictures] == [(24, 16), (24, 16)]  # Pillow: (width, height)
    assert pixels(pictures).std() > 5


def test_the_same_seed_gives_the_same_picture_to_the_bit_in_the_same_batch_shape(imagen):
    first = pixels(imagen.sample(CAPTIONS, seeds=[3, 1, 4, 1, 5]))
    torch.manual_seed(99)
    again = pixels(imagen.sample(CAPTIONS, seeds=[3, 1, 4, 1, 5]))
    assert (first == again).all()
    other_neighbours = pixels(imagen.sample([CAPTIONS[0], *CAPTIONS[:0:-1]], seeds=[3, 9, 9, 9, 9]))
    assert abs(other_neighbours[0] - first[0]).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_same_seed_gives_the_same_picture_in_any_batch(imagen, batch_size):
    """fp32: at most one step of 255 apart, whatever the batch and the padding."""
    whole = pixels(imagen.sample(CAPTIONS, seed=7, precision="fp32"))
    split = pixels(imagen.sample(CAPTIONS, seed=7, precision="fp32", batch_size=batch_size))
    assert abs(whole - split).max() <= 1
    last = pixels(imagen.sample(CAPTIONS[4:], seed=7 + 4, precision="fp32"))
    assert abs(whole[4] - last[0]).max() <= 1


def test_an_aspect_ratio_paints_what_a_cascade_of_that_shape_would(text_encoder, wake):
    """Same weights, sizes and seeds; the nearest of the sizes that the cascade can paint."""
    stages = [{"unet": UNET, "sampling": SAMPLING}] * 2
    square, wide = (
        wake(Imagen(ImagenConfig(image_sizes=sizes, stages=stages), text_encoder)).eval()
        for sizes in ([[8, 8], [16, 16]], [[6, 10], [12, 20]])
    )
    painted = square.sample(CAPTIONS, seed=3, aspect_ratio=1.6)
    assert painted[0].size == (20, 12)
    assert (pixels(painted) == pixels(wide.sample(CAPTIONS, seed=3))).all()
    assert square.sample(CAPTIONS[:1], seed=3, aspect_ratio=0.6)[0].size == (12, 20)
    assert square.sample(CAPTIONS[:1], seed=3, aspect_ratio=1)[0].size == (16, 16)
    for ratio in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="aspect_ratio"):
            square.sample(CAPTIONS[:1], aspect_ratio=ratio)


def test_other_seeds_and_other_captions_give_other_pictures(imagen):
    plain = pixels(imagen.sample(["blue"], seed=1))
    assert (plain != pixels(imagen.sample(["blue"], seed=2))).mean() > 0.5
    assert (plain != pixels(imagen.sample(["red"], seed=1))).mean() > 0.2
    assert (pixels(imagen.sample(["blue"])) != pixels(imagen.sample(["blue"]))).any()


def test_each_stage_paints_from_the_stage_before(imagen):
    """With the first stage's pictures replaced, the second one paints something else."""
    samplings = imagen.samplings()
    stages = imagen.sample_stages(CAPTIONS[:2], samplings, seeds=[0, 1])
    assert [p.size for stage in stages for p in stage] == [(12, 8)] * 2 + [(24, 16)] * 2
    only_base = imagen.sample_stages(CAPTIONS[:2], samplings[:1], seeds=[0, 1])
    assert (pixels(only_base[0]) == pixels(stages[0])).all()
    with torch.no_grad():
        for parameter in imagen.stages[0].parameters():
            parameter.zero_()
    changed = imagen.sample_stages(CAPTIONS[:2], samplings, seeds=[0, 1])
    assert (pixels(changed[1]) != pixels(stages[1])).mean() > 0.2


def test_settings_are_per_call_and_per_stage(imagen):
    one, both = imagen.samplings(guidance_scale=(1.0, 4.0), timesteps=9)
    assert (one.guidance_scale, both.guidance_scale) == (1.0, 4.0)
    assert (one.timesteps, both.timesteps) == (9, 9)
    assert (one.sampler, both.sampler) == ("ddpm", "dpm++")  # untouched
    assert imagen.config.stages[0].sampling.timesteps == 3


def test_the_noise_of_the_low_resolution_picture_is_per_stage(text_encoder):
    stages = [{"unet": UNET, "sampling": {"aug_level": 0.05}}] * 3
    config = ImagenConfig(image_sizes=[8, 16, 32], stages=stages)
    imagen = Imagen(config, text_encoder)

    def levels(aug_level):
        return [sampling.aug_level for sampling in imagen.samplings(aug_level=aug_level)]

    assert levels(None) == [0.05] * 3
    assert levels(0.2) == [0.2] * 3
    assert levels((0.0, 0.3, 0.1)) == [0.0, 0.3, 0.1]
    with pytest.raises(UserError, match="aug_level: 2 values for 3 stages"):
        levels((0.3, 0.1))
    with pytest.raises(UserError, match="aug_level"):
        levels((0.0, 0.3, 1.1))


def test_the_callback_sees_every_step_of_every_stage(imagen):
    seen = []
    imagen.sample(
        CAPTIONS[:2], seed=0, callback=lambda *call: seen.append((*call[:3], call[3].shape))
    )
    assert [call[:3] for call in seen] == [(s, i, 3) for s in (0, 1) for i in range(3)]
    assert seen[-1][3] == (2, 3, 16, 24)


def test_one_stage_on_the_device_at_a_time_paints_the_same(imagen):
    usual = pixels(imagen.sample(CAPTIONS[:2], seed=0))
    for device in (torch.device("cpu"), "cpu"):
        visiting = pixels(imagen.sample(CAPTIONS[:2], seed=0, device=device))
        assert (usual == visiting).all()


def test_a_stage_is_sent_home_before_the_next_one_comes(imagen, monkeypatch):
    moves = []
    for i, stage in enumerate(imagen.stages):
        monkeypatch.setattr(stage, "to", lambda device, i=i: moves.append((i, str(device))))
    away = torch.device("cpu", 0)  # the same place under another name
    imagen.sample(CAPTIONS[:2], seed=0, device=away)
    assert moves == [(0, "cpu:0"), (0, "cpu"), (1, "cpu:0"), (1, "cpu")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "1 seeds for 2 captions"),
        ({"guidance_scale": (1.0, 2.0, 3.0)}, "3 values for 2 stages"),
        ({"sampler": "ddmp"}, "sampler"),
        ({"timesteps": 0}, "timesteps"),
        ({"device": "abacus"}, "'abacus' is not available"),
        ({"device": "cuda:99"}, "'cuda:99' is not available"),
        ({"aug_level": 1.5}, "aug_level"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
    ],
)
def test_settings_that_are_not_valid_are_refused_in_one_line(imagen, options, message):
    with pytest.raises(UserError, match=message) as error:
        imagen.sample(CAPTIONS[:2], **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sizes", "crops", "message"),
    [
        ([8, 16], (4, None), "stage 0: crop is 4, but only super-resolution crops"),
        ([8, 16], (None, 3), "stage 1: crop is 3, must be a multiple of 2"),
        ([8, 20], (None, 4), "one whole factor, here 2.5 and 2.5"),
        ([[8, 8], [16, 24]], (None, 4), "one whole factor, here 2 and 3"),
    ],
)
def test_crops_that_cannot_be_cut_out_of_both_pictures_are_refused(sizes, crops, message):
    stages = [{"unet": UNET, "crop": crop} for crop in crops]
    with pytest.raises(ValueError, match=message):
        ImagenConfig(image_sizes=sizes, stages=stages)


def test_a_stage_without_crops_is_the_one_it_was_before_there_were_any(text_encoder):
    stages = [{"unet": UNET}, {"unet": UNET, "crop": 8}]
    imagen = Imagen(ImagenConfig(image_sizes=[8, 16], stages=stages), text_encoder)
    assert "crop" not in imagen.stage_identity(0)
    assert imagen.stage_identity(1)["crop"] == 8


def test_initial_weights_depend_on_seed_and_stage_only(text_encoder):
    stage = {"unet": UNET}
    small = ImagenConfig(image_sizes=[8], stages=[stage])
    large = ImagenConfig(image_sizes=[8, 16], stages=[stage, stage])

    def weights(config, seed):
        torch.manual_seed(seed + 1000)  # must not matter
        stage_0 = Imagen(config, text_encoder, seed=seed).stages[0]
        return torch.cat([p.flatten() for p in stage_0.parameters()])

    assert torch.equal(weights(small, 0), weights(large, 0))
    assert not torch.equal(weights(small, 0), weights(small, 1))


def test_pillow_pictures_have_the_right_colours_in_the_right_places():
    picture = -torch.ones(1, 3, 2, 3)
    picture[0, 0, 1, 2] = 1.0
    (image,) = to_pil(picture)
    assert image.size == (3, 2)
    assert image.getpixel((2, 1)) == (255, 0, 0)
    assert image.getpixel((1, 1)) == (0, 0, 0)
