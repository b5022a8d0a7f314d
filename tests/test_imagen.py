import pickle

import numpy as np
import pytest
import torch

from minimagen.config import DataConfig, ImagenConfig, TrainingConfig
from minimagen.device import visiting
from minimagen.draws import derive_seed
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.images import to_model_space, to_pil
from minimagen.storage.checkpoint import save_weights
from minimagen.storage.directory import Parameters, TrainingDirectory, write_parameters
from minimagen.storage.pretrained import Identity

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


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_captions_become_images_of_the_last_stages_size(imagen):
    images = imagen.sample(CAPTIONS[:2], seed=0)
    assert [image.size for image in images] == [(24, 16), (24, 16)]  # Pillow: (width, height)
    assert pixels(images).std() > 5


def test_one_caption_is_one_image_and_that_of_a_list_with_it_alone(imagen):
    image, (same,) = imagen.sample("a red star", seed=3), imagen.sample(["a red star"], seed=3)
    assert image.size == (24, 16)
    assert (pixels([image]) == pixels([same])).all()
    assert (pixels([imagen.sample("a red star", seeds=[3])]) == pixels([same])).all()


def test_captions_and_seeds_may_be_generators_and_may_be_none_at_all(imagen):
    listed = pixels(imagen.sample(CAPTIONS[:3], seeds=[5, 1, 4]))
    generated = imagen.sample((c for c in CAPTIONS[:3]), seeds=(s for s in (5, 1, 4)))
    assert (pixels(generated) == listed).all()
    assert imagen.sample([]) == []


def test_the_same_seed_gives_the_same_image_to_the_bit_in_the_same_batch_shape(imagen):
    first = pixels(imagen.sample(CAPTIONS, seeds=[3, 1, 4, 1, 5]))
    torch.manual_seed(99)
    again = pixels(imagen.sample(CAPTIONS, seeds=[3, 1, 4, 1, 5]))
    assert (first == again).all()
    other_neighbors = pixels(imagen.sample([CAPTIONS[0], *CAPTIONS[:0:-1]], seeds=[3, 9, 9, 9, 9]))
    assert abs(other_neighbors[0] - first[0]).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_same_seed_gives_the_same_image_in_any_batch(imagen, batch_size):
    """fp32: at most one step of 255 apart, whatever the batch and the padding."""
    whole = pixels(imagen.sample(CAPTIONS, seed=7, precision="fp32"))
    split = pixels(imagen.sample(CAPTIONS, seed=7, precision="fp32", batch_size=batch_size))
    assert abs(whole - split).max() <= 1
    last = pixels(imagen.sample(CAPTIONS[4:], seed=7 + 4, precision="fp32"))
    assert abs(whole[4] - last[0]).max() <= 1


def test_an_aspect_ratio_samples_what_a_cascade_of_that_shape_would(text_encoder, wake):
    """Same weights, sizes and seeds; the nearest of the sizes that the cascade can sample."""
    stages = [{"unet": UNET, "sampling": SAMPLING}] * 2
    square, wide = (
        wake(Imagen(ImagenConfig(image_sizes=sizes, stages=stages), text_encoder)).eval()
        for sizes in ([[8, 8], [16, 16]], [[6, 10], [12, 20]])
    )
    sampled = square.sample(CAPTIONS, seed=3, aspect_ratio=1.6)
    assert sampled[0].size == (20, 12)
    assert (pixels(sampled) == pixels(wide.sample(CAPTIONS, seed=3))).all()
    assert square.sample(CAPTIONS[:1], seed=3, aspect_ratio=0.6)[0].size == (12, 20)
    assert square.sample(CAPTIONS[:1], seed=3, aspect_ratio=1)[0].size == (16, 16)
    for ratio in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="aspect_ratio"):
            square.sample(CAPTIONS[:1], aspect_ratio=ratio)


def test_other_seeds_and_other_captions_give_other_images(imagen):
    plain = pixels(imagen.sample(["blue"], seed=1))
    assert (plain != pixels(imagen.sample(["blue"], seed=2))).mean() > 0.5
    assert (plain != pixels(imagen.sample(["red"], seed=1))).mean() > 0.2
    assert (pixels(imagen.sample(["blue"])) != pixels(imagen.sample(["blue"]))).any()


def test_each_stage_samples_from_the_stage_before(imagen):
    """With the first stage's images replaced, the second one samples something else."""
    samplings = imagen.samplings()
    stages = imagen.sample_stages(CAPTIONS[:2], samplings, seeds=[0, 1])
    assert [image.size for stage in stages for image in stage] == [(12, 8)] * 2 + [(24, 16)] * 2
    only_base = imagen.sample_stages(CAPTIONS[:2], samplings[:1], seeds=[0, 1])
    assert (pixels(only_base[0]) == pixels(stages[0])).all()
    with torch.no_grad():
        for parameter in imagen.stages[0].parameters():
            parameter.zero_()
    changed = imagen.sample_stages(CAPTIONS[:2], samplings, seeds=[0, 1])
    assert (pixels(changed[1]) != pixels(stages[1])).mean() > 0.2


def test_a_later_stage_alone_samples_what_it_samples_in_the_whole_cascade(imagen):
    samplings = imagen.samplings()
    batches = imagen.sample_batches(CAPTIONS, samplings, seeds=range(5), batch_size=2)
    base, whole = (torch.cat(stage) for stage in zip(*batches, strict=True))
    alone = imagen.sample_batches(
        CAPTIONS, samplings[1:], seeds=range(5), batch_size=2, first=1, low_res=base
    )
    assert torch.cat([batch for (batch,) in alone]).equal(whole)
    (images,) = imagen.sample_stages(
        CAPTIONS, samplings[1:], seeds=range(5), batch_size=2, first=1, low_res=base
    )
    assert (pixels(images) == pixels(to_pil(whole))).all()
    other = imagen.sample_batches(
        CAPTIONS, samplings[1:], seeds=range(5), batch_size=2, first=1, low_res=-base
    )
    assert not torch.cat([batch for (batch,) in other]).equal(whole)


def test_sample_enlarges_given_images_too(imagen):
    base, whole = imagen.sample_stages(CAPTIONS[:2], imagen.samplings(), seeds=[6, 7])
    low_res = torch.from_numpy(np.stack([np.asarray(image) for image in base])).permute(0, 3, 1, 2)
    enlarged = imagen.sample(CAPTIONS[:2], seed=6, first=1, low_res=to_model_space(low_res))
    assert abs(pixels(enlarged) - pixels(whole)).mean() < 1  # the base images are rounded to uint8


def test_settings_are_per_call_and_per_stage(imagen):
    one, both = imagen.samplings(guidance_scale=(1.0, 4.0), timesteps=9)
    assert (one.guidance_scale, both.guidance_scale) == (1.0, 4.0)
    assert (one.timesteps, both.timesteps) == (9, 9)
    assert (one.sampler, both.sampler) == ("ddpm", "dpm++")  # untouched
    assert imagen.config.stages[0].sampling.timesteps == 3


@pytest.mark.parametrize("several", [list, tuple, np.array, iter])
def test_values_of_the_stages_may_be_any_sequence(imagen, several):
    values = imagen.samplings(guidance_scale=several([1.0, 4.0]), timesteps=several([2, 3]))
    assert [(s.guidance_scale, s.timesteps) for s in values] == [(1.0, 2), (4.0, 3)]
    listed = imagen.sample("a red star", seed=1, timesteps=[2, 3])
    given = imagen.sample("a red star", seed=1, timesteps=several([2, 3]))
    assert (pixels([listed]) == pixels([given])).all()


def test_the_noise_of_the_low_resolution_image_is_per_stage(text_encoder):
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


def test_one_stage_on_the_device_at_a_time_samples_the_same(imagen):
    usual = pixels(imagen.sample(CAPTIONS[:2], seed=0))
    for device in (torch.device("cpu"), "cpu"):
        visiting = pixels(imagen.sample(CAPTIONS[:2], seed=0, device=device))
        assert (usual == visiting).all()


def test_dropout_is_off_while_it_samples_and_modes_stay_as_they_were(text_encoder, wake):
    stages = [{"unet": UNET | {"dropout": 0.5}, "sampling": SAMPLING}]
    imagen = wake(Imagen(ImagenConfig(image_sizes=[8], stages=stages), text_encoder)).train()
    frozen = imagen.stages[0].unet.conv_out.eval()
    one, again = (pixels(imagen.sample(CAPTIONS[:2], seed=1)) for _ in range(2))
    assert (one == again).all()
    assert imagen.stages[0].unet.training and not frozen.training


def test_what_sampled_on_another_device_can_be_trained_afterwards(imagen):
    class Elsewhere(torch.nn.Linear):
        """Whose weights are new tensors when it moves, as on a GPU."""

        def to(self, device):
            self.weight = torch.nn.Parameter(self.weight.detach().clone())
            return self

    part = Elsewhere(2, 2)
    with torch.inference_mode(), visiting(part, torch.device("cpu", 0)):
        pass
    assert not part.weight.is_inference()
    part(torch.ones(1, 2)).sum().backward()


def test_what_finds_no_place_on_a_device_comes_home_whole():
    class Large(torch.nn.Linear):
        places = []

        def to(self, device):
            self.places.append(str(device))
            if device == torch.device("cpu", 0):
                raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    part = Large(2, 2).train()
    with pytest.raises(torch.OutOfMemoryError), visiting(part, torch.device("cpu", 0)):
        raise AssertionError("it is not there")
    assert Large.places == ["cpu:0", "cpu"] and part.training


def test_the_text_encoder_is_on_the_device_only_while_it_encodes(imagen, monkeypatch):
    moves = []
    monkeypatch.setattr(imagen.text_encoder, "to", lambda device: moves.append(str(device)))
    imagen.sample(CAPTIONS[:2], seed=0, device=torch.device("cpu", 0), batch_size=1)
    assert moves == ["cpu:0", "cpu"]  # once for all batches


def test_seeds_of_numpy_are_those_of_python(imagen):
    one, other = (pixels(imagen.sample(CAPTIONS[:1], seeds=[n])) for n in (5, np.int64(5)))
    assert (one == other).all()
    assert derive_seed(np.int64(5), "noise") == derive_seed(5, "noise")


def test_a_stage_is_sent_back_before_the_next_one_is_sent(imagen, monkeypatch):
    moves = []
    for i, stage in enumerate(imagen.stages):
        monkeypatch.setattr(stage, "to", lambda device, i=i: moves.append((i, str(device))))
    other = torch.device("cpu", 0)  # the same place under another name
    imagen.sample(CAPTIONS[:2], seed=0, device=other)
    assert moves == [(0, "cpu:0"), (0, "cpu"), (1, "cpu:0"), (1, "cpu")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "1 seeds for 2 images"),
        ({"guidance_scale": (1.0, 2.0, 3.0)}, "3 values for 2 stages"),
        ({"sampler": "ddmp"}, "sampler"),
        ({"timesteps": 0}, "timesteps"),
        ({"device": "abacus"}, "'abacus' is not available"),
        ({"device": "cuda:99"}, "'cuda:99' is not available"),
        ({"aug_level": 1.5}, "aug_level"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"precision": "banana"}, "precision 'banana' is not one of auto, fp32, bf16"),
        ({"batch_size": -1}, "`batch_size` is -1; give a whole number of at least 1"),
        ({"batch_size": 0}, "`batch_size` is 0; give a whole number of at least 1"),
        ({"batch_size": 2.5}, "`batch_size` is 2.5; give a whole number of at least 1"),
        ({"seed": 1, "seeds": [1, 2]}, "seed and seeds contradict each other"),
        ({"seed": "x"}, "`seed` is 'x'; give a whole number"),
        ({"seeds": ["x", 1]}, "`seeds` is 'x'; give a whole number"),
        ({"seeds": 3}, "seeds is 3; give one whole number for each image"),
        ({"guidance": 2.0}, "unknown key 'guidance'"),
        ({"aspect_ratio": "3:2"}, "aspect_ratio '3:2' is not a number above 0"),
        ({"first": 1}, "first is 1: give low_res"),
        ({"first": 1, "low_res": np.zeros((2, 3, 8, 12))}, "`low_res` is ndarray; give a tensor"),
        (
            {"first": 2, "low_res": torch.zeros(2, 3, 8, 12)},
            "`first` is 2; the cascade has 2 stages",
        ),
        ({"init_images": torch.zeros(3, 8, 12)}, r"float32 \[3, 8, 12\]; give floats \[n 3 h w\]"),
        ({"init_images": torch.zeros(1, 4, 8, 12)}, r"give floats \[n 3 h w\] in \[-1, 1\]"),
        ({"init_images": torch.zeros(1, 3, 8, 12, dtype=torch.uint8)}, "is torch.uint8"),
        (
            {"init_images": torch.zeros(1, 3, 8, 12), "mask": torch.ones(1, 3, 8, 12)},
            r"give floats \[n 1 h w\] of 0 and 1",
        ),
        ({"device": torch.device("cuda", 99)}, "'cuda:99' is not available"),
        ({"output_type": "numpy"}, "`output_type` is 'numpy'; give one of pil, np, pt"),
        ({"low_res": torch.zeros(2, 3, 8, 12)}, "first is 0: give low_res for a later stage"),
    ],
)
def test_settings_that_are_not_valid_are_refused_in_one_line(imagen, options, message):
    with pytest.raises(UserError, match=message) as error:
        imagen.sample(CAPTIONS[:2], **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("captions", [None, 3, 2.5, [None], ["a star", 7], b"a star"])
def test_captions_that_are_no_text_are_refused_in_one_line(imagen, captions):
    with pytest.raises(UserError, match="captions (is|has) .*; ") as error:
        imagen.sample(captions)
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
def test_crops_that_cannot_be_cut_out_of_both_images_are_refused(sizes, crops, message):
    stages = [{"unet": UNET, "crop": crop} for crop in crops]
    with pytest.raises(ValueError, match=message):
        ImagenConfig(image_sizes=sizes, stages=stages)


def uncropped(imagen):
    identity = imagen.identity(1)
    return identity.replace(stage=identity.stage.replace(crop=None))


def test_a_stage_without_crops_is_the_one_it_was_before_there_were_any(text_encoder):
    stages = [{"unet": UNET}, {"unet": UNET, "crop": 8}]
    imagen = Imagen(ImagenConfig(image_sizes=[8, 16], stages=stages), text_encoder)
    header = imagen.identity(0).model_dump(mode="json")
    del header["stage"]["crop"]
    assert Identity.read(header, "an earlier header") == imagen.identity(0)
    assert "stage.crop was 8, is None" in imagen.identity(1).difference(uncropped(imagen))


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


def test_pillow_images_have_the_right_colors_in_the_right_places():
    tensor = -torch.ones(1, 3, 2, 3)
    tensor[0, 0, 1, 2] = 1.0
    (image,) = to_pil(tensor)
    assert image.size == (3, 2)
    assert image.getpixel((2, 1)) == (255, 0, 0)
    assert image.getpixel((1, 1)) == (0, 0, 0)


def test_weights_and_the_configuration_of_the_cascade_are_enough(imagen, text_encoder, tmp_path):
    directory = TrainingDirectory(tmp_path)
    directory.make()
    parameters = Parameters(imagen.config, TrainingConfig(steps=1), DataConfig())
    write_parameters(directory.parameters, parameters)
    for name in ("training.json", "data.json"):
        (directory.parameters / name).unlink()
    for i, stage in enumerate(imagen.stages):
        header = {"stage": imagen.identity(i).model_dump(mode="json")}
        save_weights(directory.weights(stage.name), stage.state_dict(), header)
    directory.tmp.rmdir()
    directory.samples.rmdir()
    loaded = Imagen.from_directory(tmp_path, text_encoder)
    assert loaded.config == imagen.config and not loaded.training
    assert (
        pixels(loaded.sample(CAPTIONS, seed=2)) == pixels(imagen.sample(CAPTIONS, seed=2))
    ).all()


@pytest.mark.parametrize("encoder", ["t5_mini", "minilm_mini"])
def test_a_cascade_is_pickled_also_after_its_first_caption(encoder):
    """As a pool of processes and `torch.save` want it."""
    config = ImagenConfig(
        image_sizes=[[8, 12]], text_encoder_name=encoder,
        stages=[{"unet": UNET, "sampling": SAMPLING | {"sampler": "ddpm"}}],
    )  # fmt: skip
    imagen = Imagen(config)
    before = imagen.sample("a red star", seed=1, progress=False)
    again = pickle.loads(pickle.dumps(imagen))
    assert again.sample("a red star", seed=1, progress=False).tobytes() == before.tobytes()


def test_a_clip_alone_makes_no_images(text_encoder):
    text = {"kind": "characters", "dim": 8, "depth": 1, "heads": 2}
    clip = {"image_size": 16, "embed_dim": 8, "image": {"dims": (4, 8)}, "text": text}
    with pytest.raises(UserError, match="there are no stages: a CLIP or an autoencoder alone"):
        Imagen(ImagenConfig(image_sizes=[], stages=[], clip=clip), text_encoder).sample("a star")
