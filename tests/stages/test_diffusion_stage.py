import math
from dataclasses import replace

import pytest
import torch

from minimagen.config import DiffusionConfig, SamplingConfig
from minimagen.diffusion.augmentation import NoisedImages, augment
from minimagen.diffusion.loss import training_times
from minimagen.diffusion.prediction import add_noise, target, to_x_0
from minimagen.diffusion.samplers import DDIM
from minimagen.diffusion.schedule import Cosine, level_at, sampling_times, variance_preserving
from minimagen.draws import Draws, SeededNoise
from minimagen.images import Batch, resize, resize_clamped, to_model_space
from minimagen.stages import diffusion
from minimagen.stages.crop import crop_together
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.stage import Condition, Start
from minimagen.text.encoding import encode_batch

pytestmark = pytest.mark.usefixtures("one_thread")

UNET = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_head_dim": 4}
BASE, SUPER = (0, (8, 8), None), (1, (16, 16), (8, 8))
links = pytest.mark.parametrize("link", [BASE, SUPER], ids=["base", "super-res"])


@pytest.fixture
def make_stage(wake, text_encoder):
    def make(link, **options):
        torch.manual_seed(0)
        index, size, low_res_size = link
        config = DiffusionConfig(unet=UNET, **options)
        return wake(DiffusionStage(index, config, size, low_res_size, text_encoder.embed_dim))

    return make


@pytest.fixture
def condition(text_encoder):
    def make(link, rows=3):
        text = encode_batch(text_encoder, ["a red star", "blue", "two green cats sleep"][:rows])
        low_res = None
        if link[2]:
            random = torch.Generator().manual_seed(2)
            low_res = torch.rand(rows, 3, *link[2], generator=random) * 2 - 1
        return Condition(text.embeds, text.mask, low_res)

    return make


@pytest.fixture
def noised(monkeypatch):
    """Return a list of the noised low-resolution images of stages, before they are enlarged."""
    seen = []

    def recorded(*given):
        seen.append(augment(*given))
        return seen[-1]

    monkeypatch.setattr(diffusion, "augment", recorded)
    return seen


def own(batch, stage):
    """Return the batch at the sizes of a stage, whatever size its images have."""
    return batch.at(stage.image_sizes, tuple(batch.images.shape[-2:]))


def sample(stage, condition, seeds=(1, 2, 3), sampling=None, **options):
    noise = SeededNoise(seeds, stage.index)
    return stage.sample(condition, noise, sampling or stage.config.sampling, **options)


def estimates(stage, condition, seeds=(1, 2, 3), **sampling):
    """Return the x_0_hat of every step: thresholding off, so that nothing is hidden."""
    seen = []
    options = {"thresholding": "none", "timesteps": 3, "sampler": "ddim"} | sampling
    config = SamplingConfig(**options)
    sample(stage, condition, seeds, config, callback=lambda i, n, x: seen.append(x))
    return seen


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"weight": "clamped_snr"}),
        ({}, {"weight": "min_snr"}),
        ({"weight": "min_snr"}, {"weight": "min_snr", "min_snr_gamma": 0.5}),
        ({}, {"error": "l1"}),
        ({"error": "huber"}, {"error": "huber", "huber_delta": 0.5}),
        ({}, {"times": "half_normal"}),
        ({}, {"time_shift": 4.0}),
    ],
)
def test_every_setting_of_the_loss_acts(make_stage, make_batch, before, after):
    stages = [make_stage(BASE, loss=loss) for loss in (before, after)]
    one, other = (s.loss(own(make_batch(4, 16), s), Draws(0, 0, 0, 4)) for s in stages)
    assert not torch.allclose(one, other, rtol=1e-2)


@pytest.mark.parametrize(
    "change", [{"eta": 1.0}, {"time_power": 3.0}, {"dynamic_thresholding_percentile": 0.5}]
)
def test_every_setting_of_sampling_acts(make_stage, condition, change):
    stage, given = make_stage(BASE), condition(BASE)
    usual = stage.settings(sampler="ddim", timesteps=4, guidance_scale=3.0, thresholding="dynamic")
    one, other = (sample(stage, given, sampling=s) for s in (usual, usual.replace(**change)))
    assert (one - other).abs().max() > 1e-2


def test_the_schedule_is_shifted_as_the_configuration_says(make_stage):
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    stage = make_stage(BASE, schedule={"shift": -1.0})
    assert torch.equal(stage.schedule.level(t).log_snr, Cosine(-1.0).level(t).log_snr)


def first_estimate(stage, condition, drop):
    """Return x_0_hat at t = 1 by a call of the network of its own."""
    rows = len(condition.text_mask)
    x = SeededNoise((1, 2, 3)[:rows], stage.index)("start", (3, *stage.size))
    level = stage.schedule.level(torch.ones(rows)).like(x)
    log_snr = level.log_snr.flatten()
    context = stage.unet.encode_text(
        condition.text_embeds, condition.text_mask, torch.full((rows,), drop)
    )
    low, known = (), torch.zeros_like(x)
    if condition.low_res is not None:
        noise = SeededNoise((1, 2, 3)[:rows], stage.index)("aug", condition.low_res.shape[1:])
        images, aug = augment(condition.low_res, torch.zeros(rows), noise, Cosine())
        low = (resize(images, stage.size), aug.log_snr)
        known = aug.like(x).alpha * low[0]
    if stage.config.prediction == "x_0":
        return stage.unet(level.alpha * x, log_snr, context, *low) + known
    v = stage.unet(x, log_snr, context, *low) - level.sigma * known
    return level.alpha * x - level.sigma * v


def test_a_silent_super_resolution_network_samples_the_enlarged_image(text_encoder, condition):
    """A fresh network outputs 0: with x_0 output, what is left is bicubic enlargement."""
    given = condition(SUPER)
    stage = DiffusionStage(1, DiffusionConfig(unet=UNET, prediction="x_0"), (16, 16), (8, 8), 12)
    images = sample(stage, given, sampling=SamplingConfig(timesteps=4, thresholding="none"))
    enlarged = resize_clamped(given.low_res, (16, 16))
    torch.testing.assert_close(images, enlarged, rtol=0, atol=5e-4)


def inputs_of_the_network(stage, batch, given):
    """Return (what the network was given, x_t) of a loss at its own times, and of a first step."""
    seen = []
    hook = stage.unet.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    stage.loss(own(batch, stage), Draws(0, stage.index, 0, len(batch)))
    estimates(stage, given)
    hook.remove()
    x_0 = resize_clamped(to_model_space(batch.images), stage.size)
    eps = Draws(0, stage.index, 0, len(batch)).normal("noise", x_0.shape[1:])
    x_t = add_noise(x_0, eps, variance_preserving(seen[0][1]).like(x_0))
    start = SeededNoise((1, 2, 3), stage.index)("start", (3, *stage.size))
    return (seen[0], x_t), (seen[1], start)


@links
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_a_network_that_outputs_x_0_sees_alpha_x_t_and_others_x_t(
    make_stage, make_batch, condition, link, prediction
):
    stage = make_stage(link, prediction=prediction)
    for (seen, log_snr), x_t in inputs_of_the_network(stage, make_batch(4, 16), condition(link)):
        alpha = variance_preserving(log_snr).like(x_t).alpha
        expected = alpha * x_t if prediction == "x_0" else x_t
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-6)
        assert alpha.min() < 0.9  # so that the two differ


@pytest.mark.parametrize("level", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_super_resolution_adds_what_the_enlarged_image_alone_would_predict(
    make_stage, condition, prediction, level
):
    """x_0: + low; v: - sigma low; eps: nothing; low = the noised image, enlarged and faded."""
    stage, given = make_stage(SUPER, prediction=prediction), condition(SUPER)
    noise = torch.randn(given.low_res.shape, generator=torch.Generator().manual_seed(3))
    noised = augment(given.low_res, torch.full((3,), level), noise, Cosine())
    enlarged = NoisedImages(resize(noised.images, (16, 16)), noised.level)
    context = stage.unet.encode_text(
        given.text_embeds, given.text_mask, torch.zeros(3, dtype=torch.bool)
    )
    x_t = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    now = variance_preserving(torch.tensor([-4.0, 0.0, 4.0]))
    alpha, sigma, _ = now.like(x_t)
    with torch.inference_mode():
        output = stage._output(x_t, now, context, enlarged)
        seen = alpha * x_t if prediction == "x_0" else x_t
        alone = stage.unet(seen, now.log_snr, context, enlarged.images, noised.level.log_snr)
    low = math.cos(math.pi / 2 * level) * enlarged.images
    added = {"x_0": low, "v": -sigma * low, "eps": torch.zeros_like(low)}[prediction]
    torch.testing.assert_close(output - alone, added, rtol=0, atol=1e-4)


@links
@pytest.mark.parametrize("prediction", ["v", "x_0"])
def test_guidance_1_is_the_conditional_prediction(make_stage, condition, link, prediction):
    stage = make_stage(link, prediction=prediction)
    given = condition(link)
    expected = first_estimate(stage, given, drop=False)
    torch.testing.assert_close(estimates(stage, given)[0], expected, rtol=0, atol=1e-5)


@links
@pytest.mark.parametrize("w", [0.0, 3.0])
def test_the_guided_batch_equals_two_separate_calls(make_stage, condition, link, w):
    stage = make_stage(link)
    given = condition(link)
    cond = first_estimate(stage, given, drop=False)
    uncond = first_estimate(stage, given, drop=True)
    assert (cond - uncond).abs().max() > 1e-2
    guided = estimates(stage, given, guidance_scale=w)[0]
    torch.testing.assert_close(guided, uncond + w * (cond - uncond), rtol=0, atol=1e-5)


@links
def test_outside_its_interval_guidance_is_off(make_stage, condition, link):
    stage, given = make_stage(link), condition(link)
    off = estimates(stage, given, guidance_scale=1.0)
    late = estimates(stage, given, guidance_scale=4.0, guidance_interval=(0.0, 0.5))
    for step in (0, 1):  # t = 1 and 2/3: outside
        torch.testing.assert_close(late[step], off[step], rtol=0, atol=1e-5)
    assert (late[2] - off[2]).abs().max() > 1e-2  # t = 1/3: inside


@links
def test_the_text_is_encoded_once_per_sampling_run(make_stage, condition, link, monkeypatch):
    stage, calls = make_stage(link), []
    encode = stage.unet.encode_text
    monkeypatch.setattr(stage.unet, "encode_text", lambda *a: calls.append(1) or encode(*a))
    estimates(stage, condition(link), guidance_scale=3.0, timesteps=5)
    assert len(calls) == 1


@links
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "heun"])
def test_images_are_finite_and_in_range(make_stage, condition, link, sampler):
    stage = make_stage(link)
    sampling = SamplingConfig(sampler=sampler, timesteps=4, guidance_scale=5.0, aug_level=0.3)
    images = sample(stage, condition(link), sampling=sampling)
    assert images.shape == (3, 3, *link[1])
    assert images.abs().max() <= 1.0
    assert torch.equal(images, sample(stage, condition(link), sampling=sampling))


@links
def test_an_image_depends_on_its_own_seed_and_caption_only(make_stage, condition, link):
    stage, given = make_stage(link), condition(link)
    sampling = SamplingConfig(sampler="ddpm", timesteps=4, aug_level=0.2)
    together = sample(stage, given, (1, 2, 3), sampling)
    low_res = None if given.low_res is None else given.low_res[1:2]
    alone = Condition(given.text_embeds[1:2], given.text_mask[1:2], low_res)
    torch.testing.assert_close(
        sample(stage, alone, (2,), sampling), together[1:2], rtol=0, atol=1e-4
    )
    other = sample(stage, alone, (5,), sampling)
    assert (other - together[1:2]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("link", "options"),
    [(BASE, {}), (SUPER, {}), (SUPER, {"crop": 8})],
    ids=["base", "super-res", "super-res on crops"],
)
def test_the_loss_is_the_same_for_any_split_of_the_batch(make_stage, make_batch, link, options):
    stage = make_stage(link, **options)
    batch, draws = own(make_batch(6, 16), stage), Draws(0, link[0], 3, 6)
    whole = stage.loss(batch, draws)
    parts = [stage.loss(batch[i : i + 2], draws.slice(i, 2)) for i in (0, 2, 4)]
    assert whole.shape == (6,) and whole.dtype == torch.float32
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_the_loss_of_a_silent_network_is_the_weighted_power_of_its_target(
    text_encoder, make_batch, prediction, shift
):
    """A fresh network outputs 0, so the loss is known from the draws alone."""
    loss = {"space": "x_0", "time_shift": shift}
    config = DiffusionConfig(unet=UNET, prediction=prediction, loss=loss)
    stage = DiffusionStage(0, config, (8, 8), None, text_encoder.embed_dim)
    batch, draws = make_batch(4, 16), Draws(0, 0, 0, 4)
    x_0 = resize_clamped(to_model_space(batch.images), (8, 8))
    eps = draws.normal("noise", (3, 8, 8))
    t = training_times(draws.stratified("time"), shift).float()
    level = Cosine().level(t).like(x_0)
    x_t = add_noise(x_0, eps, level)
    estimate = to_x_0(prediction, torch.zeros_like(x_t), x_t, level)
    expected = (estimate - x_0).square().flatten(1).mean(1)
    torch.testing.assert_close(stage.loss(own(batch, stage), draws), expected, rtol=1e-3, atol=0)
    assert target(prediction, x_0, eps, level).abs().max() > 0


@pytest.mark.parametrize(("progress", "shift"), [(0.0, 32.0), (0.5, 8.0), (1.0, 2.0)])
def test_training_times_go_from_one_shift_to_the_other_geometrically(
    text_encoder, make_batch, progress, shift
):
    losses = []
    for loss in ({"time_shift": 32.0, "time_shift_end": 2.0}, {"time_shift": shift}):
        config = DiffusionConfig(unet=UNET, prediction="x_0", loss=loss)
        stage = DiffusionStage(0, config, (8, 8), None, text_encoder.embed_dim)
        batch = own(make_batch(4, 16), stage)
        losses.append(stage.loss(batch, Draws(0, 0, 0, 4, progress=progress)))
    torch.testing.assert_close(*losses)


def test_crops_are_the_same_part_of_both_images_anywhere_on_the_small_grid():
    small = torch.arange(5 * 6.0).reshape(1, 1, 5, 6).expand(400, 2, 5, 6)
    large = small.repeat_interleave(4, -2).repeat_interleave(4, -1)
    part, small_part = crop_together(large, small, (2, 3), Draws(0, 1, 0, 400))
    assert part.shape == (400, 2, 8, 12) and small_part.shape == (400, 2, 2, 3)
    assert part.equal(small_part.repeat_interleave(4, -2).repeat_interleave(4, -1))
    corners = small_part[:, 0, 0, 0].unique(return_counts=True)
    assert corners[0].tolist() == [6 * y + x for y in range(4) for x in range(4)]
    assert corners[1].min() > 10  # of 25 each


@pytest.mark.parametrize(("crop", "side"), [(None, 16), (8, 8), (4, 4), (16, 16), (32, 16)])
def test_training_sees_crops_and_sampling_whole_images(
    make_stage, make_batch, condition, noised, crop, side
):
    stage = make_stage(SUPER, crop=crop)
    seen = []
    stage.unet.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[3])))
    stage.loss(own(make_batch(3, 16), stage), Draws(0, 1, 0, 3)).sum().backward()
    sample(stage, condition(SUPER), sampling=SamplingConfig(timesteps=1))
    (x, enlarged), (sampled, _) = seen
    assert x.shape[1:] == enlarged.shape[1:] == (3, side, side)
    assert noised[0].images.shape[1:] == (3, side // 2, side // 2)
    assert sampled.shape[2:] == (16, 16) and noised[1].images.shape[2:] == (8, 8)


class Spy:
    """Keeps what the network is given for the low-resolution image, and its level."""

    def __init__(self, stage):
        self.calls = []
        stage.unet.register_forward_pre_hook(lambda _, args: self.calls.append(args[3:5]))


@pytest.mark.parametrize("level", [0.0, 0.4, 0.9])
def test_training_and_sampling_give_the_network_the_same_low_resolution_image(
    make_stage, make_batch, monkeypatch, level
):
    """The same image, level and noise: to the bit the same input, whatever the order is.

    Were one path to noise the image before the map to [-1, 1] and the other after it, or the
    training level to mean something else than the sampling level, the two would differ.
    """
    stage, batch = make_stage(SUPER), make_batch(3, 16)
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    plain_normal = Draws.normal

    def normal(draws, name, shape):
        return noise if name == "aug_noise" else plain_normal(draws, name, shape)

    plain_noise = SeededNoise.__call__

    def seeded(noises, name, shape):
        return noise if name == "aug" else plain_noise(noises, name, shape)

    monkeypatch.setattr(Draws, "normal", normal)
    monkeypatch.setattr(
        Draws, "uniform", lambda draws, name: torch.full((3,), level, dtype=torch.float64)
    )
    monkeypatch.setattr(SeededNoise, "__call__", seeded)
    spy = Spy(stage)
    stage.loss(own(batch, stage), Draws(0, 1, 0, 3))
    low_res = resize_clamped(to_model_space(batch.images), (8, 8))
    condition = Condition(batch.text_embeds, batch.text_mask, low_res)
    sample(stage, condition, sampling=SamplingConfig(timesteps=1, aug_level=level))
    (trained, trained_level), (sampled, sampled_level) = spy.calls
    assert torch.equal(trained, sampled)
    assert torch.equal(trained_level, sampled_level)


@pytest.mark.parametrize("path", ["training", "sampling"])
def test_the_low_resolution_image_is_noised_in_model_space(
    make_stage, text_encoder, noised, monkeypatch, path
):
    """A white image (+1) at level t has mean alpha and standard deviation sigma."""
    t = 0.5
    link = (1, (64, 64), (32, 32))
    stage = make_stage(link)
    text = encode_batch(text_encoder, ["white"])
    spy = Spy(stage)
    if path == "training":
        monkeypatch.setattr(
            Draws, "uniform", lambda draws, name: torch.tensor([t], dtype=torch.float64)
        )
        white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
        stage.loss(own(Batch(white, text.embeds, text.mask), stage), Draws(0, 1, 0, 1))
    else:
        condition = Condition(text.embeds, text.mask, torch.ones(1, 3, 32, 32))
        sample(stage, condition, (1,), SamplingConfig(timesteps=1, aug_level=t))
    seen, (enlarged, log_snr) = noised[0].images, spy.calls[0]
    assert enlarged.equal(resize(seen, (64, 64)))
    assert seen.mean().item() == pytest.approx(math.cos(math.pi / 2 * t), abs=0.04)
    assert seen.std().item() == pytest.approx(math.sin(math.pi / 2 * t), rel=0.05)
    assert log_snr.item() == pytest.approx(Cosine().log_snr(torch.tensor(t)).item())


def test_augmentation_levels_in_training_cover_their_range_and_no_more(
    make_stage, make_batch, monkeypatch
):
    stage, seen = make_stage(SUPER, aug_level_max=0.6), []
    stage.unet.register_forward_pre_hook(lambda _, args: seen.append(args[4]))
    batch = own(make_batch(16, 16), stage)
    for step in range(8):
        stage.loss(batch, Draws(0, 1, step, 16))
    levels = Cosine().time(torch.cat(seen))
    assert levels.max() <= 0.6 and levels.max() > 0.5 and levels.min() < 0.1


def test_captions_are_dropped_at_their_rate_and_only_in_training(
    make_stage, make_batch, condition, monkeypatch
):
    stage, dropped = make_stage(BASE, cond_drop_prob=0.25), []
    encode = stage.unet.encode_text
    monkeypatch.setattr(
        stage.unet, "encode_text", lambda e, m, drop: dropped.append(drop) or encode(e, m, drop)
    )
    batch = own(make_batch(32, 8), stage)
    for step in range(16):
        stage.loss(batch, Draws(0, 0, step, 32))
    assert torch.cat(dropped).float().mean().item() == pytest.approx(0.25, abs=0.08)
    dropped.clear()
    estimates(stage, condition(BASE))
    assert not dropped[0].any()
    dropped.clear()
    estimates(stage, condition(BASE), guidance_scale=2.0)
    assert dropped[0].tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("link", "other", "crop"),
    [
        (BASE, (0, (6, 10), None), None),
        (SUPER, (1, (12, 20), (6, 10)), None),
        (SUPER, (1, (12, 20), (6, 10)), 8),
    ],
    ids=["base", "super-res", "crops"],
)
def test_images_of_another_shape_are_learned_as_by_a_stage_of_that_shape(
    make_stage, make_batch, condition, link, other, crop
):
    """The weights are the same; final images are 16 x 16, or 12 x 20 in another bucket."""
    square, wide = make_stage(link, crop=crop), make_stage(other, crop=crop)
    batch, draws = make_batch(4, 20), Draws(3, link[0], 0, 4)
    batch = replace(batch, images=batch.images[:, :, 4:16])
    bucket = batch.at(square.image_sizes, (16, 16))
    assert square.loss(bucket, draws).equal(wide.loss(own(batch, wide), draws))
    given = condition(other)
    sized = replace(given, size=other[1])
    assert sample(square, sized).equal(sample(wide, given))


@links
@pytest.mark.parametrize("sampler", ["ddpm", "dpm++"])
def test_a_start_at_1_with_the_same_noise_is_sampling_without_one(
    make_stage, condition, link, sampler
):
    stage, given = make_stage(link), condition(link)
    sampling = SamplingConfig(sampler=sampler, timesteps=4, guidance_scale=2.0)
    start = Start(SeededNoise((1, 2, 3), stage.index)("start", (3, *stage.size)), 1.0)
    from_start = sample(stage, given, sampling=sampling, start=start)
    assert from_start.equal(sample(stage, given, sampling=sampling))
    other = Start(start.x_t.flip(0), 1.0)
    assert not sample(stage, given, sampling=sampling, start=other).equal(from_start)


@links
@pytest.mark.parametrize(("t", "steps"), [(0.01, 1), (0.29, 3), (0.5, 5), (0.96, 10), (1.0, 10)])
def test_a_start_at_t_takes_its_share_of_the_steps_and_draws_no_noise_to_start_from(
    make_stage, condition, link, t, steps
):
    stage, given = make_stage(link), condition(link)
    seen, names, reports = [], [], []
    stage.unet.register_forward_pre_hook(lambda _, args: seen.append(args[1]))

    def noise(name, shape):
        names.append(name)
        return SeededNoise((1, 2, 3), stage.index)(name, shape)

    stage.sample(
        given,
        noise,
        SamplingConfig(sampler="ddpm", timesteps=10),
        Start(torch.zeros(3, 3, *stage.size), t),
        lambda i, n, x: reports.append((i, n)),
    )
    assert reports == [(i, steps) for i in range(steps)]
    assert names == ["aug"] * (link is SUPER) + list(range(steps - 1))
    log_snr = stage.schedule.log_snr(sampling_times(steps, t)[:-1]).float()
    assert torch.stack(seen).equal(log_snr[:, None].expand(steps, 3))


@links
def test_a_start_in_the_middle_of_a_trajectory_ends_where_the_trajectory_ends(
    make_stage, condition, link
):
    stage, given, seen = make_stage(link), condition(link), []
    stage.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    sampling = SamplingConfig(sampler="ddim", timesteps=4)
    whole = sample(stage, given, sampling=sampling)
    rest = sample(stage, given, sampling=sampling, start=Start(seen[2], 0.5))
    assert len(seen) == 4 + 2
    torch.testing.assert_close(rest, whole, rtol=0, atol=1e-6)


def euler(schedule):
    """A sampler of one's own: a step of the probability flow in x / alpha over sigma / alpha."""

    def step(denoise, x, t, s, memory, noise):
        now, then = level_at(schedule, t), level_at(schedule, s)
        x_0_hat = denoise(x, t.expand(len(x)))
        ratio, next_ratio = now.sigma / now.alpha, then.sigma / then.alpha
        scaled = x.double() / now.alpha  # far larger than x near noise
        slope = (scaled - x_0_hat) / ratio
        return (then.alpha * (scaled + (next_ratio - ratio) * slope)).float(), x_0_hat

    return step


@links
def test_a_sampler_can_be_a_function_from_a_schedule_to_a_step(make_stage, condition, link):
    """Euler's method in these variables is DDIM (arXiv 2010.02502, eq. 14)."""
    stage, given = make_stage(link, schedule={"shift": -1.0}), condition(link)
    usual = sample(stage, given, sampling=SamplingConfig(sampler="ddim", timesteps=4))
    for sampler, atol in ((DDIM, 0.0), (euler, 1e-5)):
        settings = stage.settings(sampler=sampler, timesteps=4)
        images = sample(stage, given, sampling=settings)
        torch.testing.assert_close(images, usual, rtol=0, atol=atol)
        fewer = settings.replace(timesteps=3)
        assert fewer.sampler is sampler and fewer.timesteps == 3


def test_a_silent_network_is_as_wrong_as_the_enlarged_image(make_batch):
    """A fresh network with x_0 output estimates the enlarged image itself: the ratio is 1."""
    stage = DiffusionStage(1, DiffusionConfig(unet=UNET, prediction="x_0"), (16, 16), (8, 8), 12)
    batch = own(make_batch(4, 16), stage)
    with torch.inference_mode():
        assert stage.error_ratio(batch, Draws(0, 1, -1, 4)) == pytest.approx(1.0, abs=1e-3)
        noisy = DiffusionStage(1, DiffusionConfig(unet=UNET, prediction="v"), (16, 16), (8, 8), 12)
        assert noisy.error_ratio(batch, Draws(0, 1, -1, 4)) > 1.0  # alpha^2 times its noise remains


def test_the_ratio_is_the_worst_of_its_times(make_batch, monkeypatch):
    """An estimate that is wrong by t at time t, beside an enlarged image that is wrong by e."""
    stage = DiffusionStage(1, DiffusionConfig(unet=UNET, prediction="x_0"), (16, 16), (8, 8), 12)
    batch = own(make_batch(4, 16), stage)
    x_0 = to_model_space(batch.images)
    wrong = (resize(to_model_space(batch.low_res), (16, 16)) - x_0).square().mean()
    monkeypatch.setattr(
        DiffusionStage, "denoiser", lambda *_: lambda x_t, t: x_0 + t.float().reshape(-1, 1, 1, 1)
    )
    ratio = stage.error_ratio(batch, Draws(0, 1, -1, 4))
    assert ratio == pytest.approx(0.8**2 / float(wrong), rel=1e-3)


def test_a_base_stage_has_nothing_to_be_compared_with(make_batch):
    stage = DiffusionStage(0, DiffusionConfig(unet=UNET), (8, 8), None, 12)
    assert stage.error_ratio(own(make_batch(4, 16), stage), Draws(0, 0, -1, 4)) is None


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0), (30.0, 1)])
def test_guidance_that_burns_is_noted_once(make_stage, condition, scale, expected):
    stage, given = make_stage(BASE), condition(BASE)
    sample(stage, given, sampling=SamplingConfig(timesteps=4, guidance_scale=scale))
    notes = stage.notes()
    assert len(notes) == expected and all("guidance 30 drives" in note for note in notes)
    assert stage.notes() == []
