import pytest
import torch

from minimagen.config import DiffusionConfig, DistilledConfig, SamplingConfig
from minimagen.draws import Draws, SeededNoise
from minimagen.errors import UserError
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.distilled import DistilledStage
from minimagen.stages.stage import Condition
from minimagen.text.encoding import encode_batch
from tests.stages.test_diffusion_stage import BASE, SUPER, UNET, links, own, sample

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def make_pair(wake, text_encoder):
    """Return a teacher and a student that begins as it does."""

    def make(link, steps, prediction="v", loss=None, **sampling):
        torch.manual_seed(0)
        index, size, low_res_size = link
        sampling = {"thresholding": "none"} | sampling
        config = DiffusionConfig(
            unet=UNET, prediction=prediction, sampling=sampling, loss=loss or {}
        )
        place = (size, low_res_size, text_encoder.embed_dim)
        teacher = wake(DiffusionStage(index, config, *place))
        student = DistilledStage(index, config.distilled(steps), *place)
        student.load_state_dict(teacher.state_dict())
        student.learn_from(teacher)
        return teacher, student

    return make


def losses(stage, batch, step=0):
    return stage.loss(own(batch, stage), Draws(0, stage.index, step, len(batch)))


@links
@pytest.mark.parametrize("prediction", ["v", "x_0"])
def test_who_takes_the_teachers_own_steps_has_nothing_to_learn(
    make_pair, make_batch, link, prediction
):
    _, student = make_pair(link, 4, prediction, timesteps=4)
    assert losses(student, make_batch(8, 16)).max() < 1e-9
    _, student = make_pair(link, 2, prediction, timesteps=4)
    assert losses(student, make_batch(8, 16)).min() > 1e-7


def test_guidance_is_part_of_what_is_learned(make_pair, make_batch):
    _, student = make_pair(BASE, 4, timesteps=4, guidance_scale=3.0)
    assert losses(student, make_batch(8, 16)).min() > 1e-5
    late = {"guidance_scale": 3.0, "guidance_interval": (0.0, 0.6)}
    _, student = make_pair(BASE, 4, timesteps=4, **late)
    batch = make_batch(8, 16)
    step = (Draws(0, 0, 0, 8).stratified("time") * 4).floor()
    guided = losses(student, batch) > 1e-6
    assert guided.tolist() == (step >= 2).tolist()  # t = 0.5 and 0.25


@links
def test_the_teacher_is_no_part_of_the_student_and_does_not_change(make_pair, make_batch, link):
    teacher, student = make_pair(link, 2, timesteps=4, guidance_scale=2.0)
    before = {name: p.clone() for name, p in teacher.state_dict().items()}
    assert student.state_dict().keys() == before.keys()
    assert {n for n, _ in student.named_parameters()} == {n for n, _ in teacher.named_parameters()}
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    losses(student, make_batch(4, 16)).mean().backward()
    optimizer.step()
    assert all(p.equal(before[name]) for name, p in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert any(not p.equal(before[name]) for name, p in student.state_dict().items())


def test_training_halves_the_distance_to_where_the_teacher_arrives(
    make_pair, make_batch, text_encoder
):
    """From pure noise, one step for four guided ones of ddim."""
    teacher, student = make_pair(BASE, 1, "x_0", timesteps=4, guidance_scale=2.0)
    batch = make_batch(16, 8)
    seeds = range(16)
    condition = Condition(batch.text_embeds, batch.text_mask)
    sampling = teacher.config.sampling.replace(sampler="ddim")
    wanted = sample(teacher, condition, seeds, sampling)

    def distance():
        return float((sample(student, condition, seeds) - wanted).square().mean())

    before, optimizer = distance(), torch.optim.Adam(student.parameters(), 3e-3)
    for step in range(50):
        optimizer.zero_grad()
        losses(student, batch, step).mean().backward()
        optimizer.step()
    assert distance() < 0.5 * before


def test_it_samples_with_one_call_of_the_network_a_step(make_pair, text_encoder):
    _, student = make_pair(SUPER, 3, timesteps=6, guidance_scale=2.0)
    text = encode_batch(text_encoder, ["a red star", "blue"])
    calls = []
    student.unet.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    low_res = SeededNoise((1, 2), 0)("low", (3, 8, 8))
    sample(student, Condition(text.embeds, text.mask, low_res), (1, 2))
    assert calls == [2, 2, 2]


def test_it_samples_as_it_learned_and_in_no_other_way():
    config = DiffusionConfig(unet=UNET).distilled(4)
    assert config.sampling == SamplingConfig(sampler="ddim", timesteps=4, guidance_scale=1.0)
    assert config == DistilledConfig(unet=UNET, steps=4)
    for change in ({"timesteps": 8}, {"guidance_scale": 2.0}, {"sampler": "dpm++"}, {"eta": 0.5}):
        other = config.sampling.replace(**change)
        with pytest.raises(UserError, match="stage 3 is distilled: it samples in 4 steps of ddim"):
            config.checked(other, "stage 3")
        with pytest.raises(UserError, match="is distilled: it samples in 4 steps of ddim"):
            config.replace(sampling=other)
    with pytest.raises(UserError, match="can teach a divisor of them, not 3"):
        config.distilled(3)
    assert config.distilled(2).sampling.timesteps == 2
    with pytest.raises(UserError, match="eps output cannot be distilled"):
        DiffusionConfig(unet=UNET, prediction="eps").distilled(4)
    with pytest.raises(UserError, match="eps output cannot be distilled"):
        DistilledConfig.read({"unet": UNET, "prediction": "eps", "steps": 4}, "unet_0.json")


@pytest.mark.parametrize("weight", ["min_snr", "simple"])
@pytest.mark.parametrize("space", ["eps", "x_0", "v"])
def test_what_is_sampled_from_pure_noise_is_learned_whatever_the_loss_was(
    make_pair, make_batch, weight, space
):
    """With one step t is always 1, where min-SNR and the eps space give x_0 the weight 0."""
    loss = {"space": space, "weight": weight}
    _, student = make_pair(BASE, 1, timesteps=4, guidance_scale=2.0, loss=loss)
    _, usual = make_pair(BASE, 1, timesteps=4, guidance_scale=2.0)
    batch = make_batch(4, 8)
    assert losses(student, batch).min() > 1e-3
    assert losses(student, batch).equal(losses(usual, batch))


def test_without_a_teacher_there_is_no_loss(make_batch, text_encoder):
    config = DiffusionConfig(unet=UNET).distilled(2)
    student = DistilledStage(0, config, (8, 8), None, text_encoder.embed_dim)
    with pytest.raises(UserError, match="stage 0 is to be distilled and has no teacher"):
        losses(student, make_batch(2, 8))
