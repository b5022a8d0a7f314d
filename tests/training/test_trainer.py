import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from minimagen.config import DiffusionConfig, LearnerTrainingConfig, UNetConfig
from minimagen.draws import Draws
from minimagen.images import to_model_space
from minimagen.learner import Learner, ParameterGroups
from minimagen.networks.unet import UNet
from minimagen.stages.diffusion import DiffusionStage
from minimagen.training.trainer import NonFiniteLossError, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_head_dim": 4}
CONFIG = LearnerTrainingConfig(optim_lr=1e-2, max_grad_norm=1e9)


class DoubleLearner(Learner):
    """A real U-Net in float64 that learns noise, with all kinds of draws."""

    name, image_sizes = "double", ((8, 8),)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.unet = UNet(UNetConfig(**SHAPE), 12, False).double()
        nn.init.normal_(self.unet.conv_out.weight, std=0.1)

    def parameter_groups(self):
        hidden = self.unet.hidden_matrices()
        taken = {id(p) for p in hidden}
        return ParameterGroups(hidden, [p for p in self.parameters() if id(p) not in taken])

    def loss(self, batch, draws):
        x_0 = to_model_space(batch.images).double()
        t = draws.stratified("time")
        noise = draws.normal("noise", x_0.shape[1:]).double()
        drop = draws.uniform("drop") < 0.3
        context = self.unet.encode_text(batch.text_embeds.double(), batch.text_mask, drop)
        out = self.unet(x_0 + t[:, None, None, None] * noise, t, context)
        return (out - noise).square().flatten(1).mean(1)


def record_gradients(trainer):
    gradients = []

    def keep(*_):
        gradients.append([p.grad.clone() for p in trainer.learner.parameters()])

    trainer.optimizers[0].register_step_pre_hook(keep)
    return gradients


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16)])
def test_optimizers_step_in_the_runs_precision(make_batch, precision, dtype):
    trainer, seen = Trainer(DoubleLearner(), 0, CONFIG, 9, precision=precision), []

    def look(*_):
        enabled = torch.is_autocast_enabled("cpu")
        seen.append(torch.get_autocast_dtype("cpu") if enabled else None)

    trainer.optimizers[0].register_step_pre_hook(look)
    trainer._backward = lambda batch: torch.zeros(())  # the network of float64 has no bfloat16
    trainer.train_step(make_batch(2, 8))
    assert seen == [dtype]


def weights(trainer):
    return torch.cat([p.detach().flatten().clone() for p in trainer.learner.parameters()])


@pytest.mark.parametrize("accum_iter", [2, 3, 4, 8])
def test_gradients_with_accumulation_equal_the_big_batchs(make_batch, accum_iter):
    batch = make_batch(8, 8)
    runs = []
    for pieces in (1, accum_iter):
        trainer = Trainer(DoubleLearner(), 0, CONFIG, 10, seed=1, accum_iter=pieces)
        gradients = record_gradients(trainer)
        losses = [float(trainer.train_step(batch)) for _ in range(3)]
        runs.append((gradients, losses, weights(trainer)))
    (whole, losses, end), (pieces, piece_losses, piece_end) = runs
    for a, b in zip(whole[0], pieces[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    assert piece_losses == pytest.approx(losses, rel=1e-10)
    torch.testing.assert_close(end, piece_end, rtol=0, atol=1e-8)


def test_the_gradient_is_that_of_the_mean_loss_clipped_to_its_norm(make_batch):
    batch = make_batch(4, 8)
    configs = (CONFIG, CONFIG.replace(max_grad_norm=0.01))
    trainers = [Trainer(DoubleLearner(), 0, config, 10) for config in configs]
    grads = [record_gradients(trainer) for trainer in trainers]
    for trainer in trainers:
        trainer.train_step(batch)
    free_gradient, clipped_gradient = (
        torch.cat([g.flatten() for g in series[0]]) for series in grads
    )
    learner = DoubleLearner()
    mean = learner.loss(batch, Draws(0, 0, 0, 4)).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(mean, learner.parameters())])
    torch.testing.assert_close(free_gradient, expected, rtol=1e-10, atol=1e-13)
    assert expected.norm() > 0.1
    clipped = 0.01 * expected / expected.norm()
    torch.testing.assert_close(clipped_gradient, clipped, rtol=1e-3, atol=1e-9)


def test_draws_know_the_share_of_the_training_that_is_done(make_batch, monkeypatch):
    trainer, seen = Trainer(DoubleLearner(), 0, CONFIG, 4), []
    loss = trainer._loss
    monkeypatch.setattr(trainer, "_loss", lambda b, draws: seen.append(draws) or loss(b, draws))
    for _ in range(4):
        trainer.train_step(make_batch(4, 8))
    assert [draws.progress for draws in seen] == [0.0, 0.25, 0.5, 0.75]


@pytest.fixture
def make_trainer(text_encoder):
    def make(steps=12, **options):
        torch.manual_seed(0)
        config = DiffusionConfig(unet=SHAPE | {"dropout": 0.1})
        stage = DiffusionStage(1, config, (8, 8), (4, 4), text_encoder.embed_dim)
        settings = LearnerTrainingConfig(optim_lr=3e-3, ema_decay=0.9)
        return Trainer(stage, 1, settings, steps, seed=5, precision="fp32", **options)

    return make


def test_the_same_run_twice_is_the_same_to_the_bit(make_trainer, make_batch):
    batch, ends = make_batch(4, 8, 4), []
    for junk in (1, 2):
        trainer = make_trainer()
        for _ in range(4):
            torch.manual_seed(junk)  # dropout must not listen to the global generator
            trainer.train_step(batch)
        ends.append(weights(trainer))
    assert torch.equal(*ends)


def test_a_resumed_run_ends_like_the_uninterrupted_one_to_the_bit(make_trainer, make_batch):
    batch, straight = make_batch(4, 8, 4), make_trainer()
    for _ in range(12):
        straight.train_step(batch)
    first = make_trainer()
    for _ in range(5):
        first.train_step(batch)
    saved = {name: value.detach().clone() for name, value in first.tensors().items()}
    resumed = make_trainer()
    torch.manual_seed(77)
    resumed.load(saved, first.state())
    assert (resumed.step, resumed.done) == (5, False)
    for _ in range(7):
        resumed.train_step(batch)
    assert resumed.done
    assert torch.equal(weights(straight), weights(resumed))
    for name, value in straight.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name


def test_validation_is_repeatable_and_changes_nothing(make_trainer, make_batch):
    trainer = make_trainer()
    batches = [make_batch(4, 8, 4), make_batch(2, 8, 4)]
    trainer.train_step(batches[0])
    before = weights(trainer)
    loss = trainer.validate(batches)
    assert math.isfinite(loss)
    assert trainer.validate(batches) == loss
    assert torch.equal(weights(trainer), before)
    trainer.train_step(batches[0])
    assert trainer.validate(batches) != loss


def test_validation_is_without_dropout_and_training_with_it(make_trainer, make_batch):
    trainer, batch, modes = make_trainer(), make_batch(4, 8, 4), []
    trainer.learner.unet.register_forward_pre_hook(lambda m, _: modes.append(m.training))
    trainer.train_step(batch)
    trainer.validate([batch])
    trainer.train_step(batch)
    assert modes == [True, False, True]


def test_the_average_is_as_short_as_the_configuration_says(make_batch):
    trainer = Trainer(DoubleLearner(), 0, CONFIG.replace(ema_decay=0.0), 10)
    trainer.train_step(make_batch(4, 8))
    live = dict(trainer.learner.named_parameters())
    assert all(torch.equal(average, live[n]) for n, average in trainer.ema.state().items())


def test_validation_draws_the_same_times_and_noise_at_every_step(make_trainer, make_batch):
    trainer, batches = make_trainer(), [make_batch(4, 8, 4), make_batch(2, 8, 4)]
    loss = trainer.validate(batches)
    trainer.step = 700  # the weights are the same, so only the draws could differ
    assert trainer.validate(batches) == loss


def test_training_learns(make_trainer, make_batch):
    """White images only: the network has to learn one constant and which part is noise."""
    trainer, batch = make_trainer(40), make_batch(8, 8, 4)
    batch.images.fill_(255)
    batch.low_res.fill_(1.0)
    losses = [float(trainer.train_step(batch)) for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def _poison_loss(trainer, monkeypatch):
    plain = trainer._loss
    monkeypatch.setattr(trainer, "_loss", lambda b, d: plain(b, d) * float("nan"))


def _poison_gradient(trainer, monkeypatch):
    """The loss is finite, its gradient is not: d sqrt(x) / dx at 0."""
    plain = trainer._loss
    monkeypatch.setattr(trainer, "_loss", lambda b, d: plain(b, d).mul(0.0).sqrt())


@pytest.mark.parametrize("poison", [_poison_loss, _poison_gradient])
def test_a_non_finite_loss_changes_nothing_and_names_the_step(
    make_trainer, make_batch, monkeypatch, poison
):
    trainer, batch = make_trainer(), make_batch(4, 8, 4)
    for _ in range(3):
        trainer.train_step(batch)
    before = {name: value.detach().clone() for name, value in trainer.tensors().items()}
    with monkeypatch.context() as patch:
        poison(trainer, patch)
        with pytest.raises(NonFiniteLossError, match="unet_1, step 3") as caught:
            trainer.train_step(batch)
    assert caught.value.intact
    assert trainer.step == 3 and trainer.ema.updates == 3
    for name, value in trainer.tensors().items():
        assert torch.equal(value, before[name]), name
    undisturbed = make_trainer()
    for _ in range(4):
        undisturbed.train_step(batch)
    trainer.train_step(batch)  # and the run can go on
    assert torch.equal(weights(trainer), weights(undisturbed))


class HostReads(TorchDispatchMode):
    """Counts how often a number of a tensor is read: on a GPU the host waits for that."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_that_is_checked_later_reads_no_number_of_a_tensor(make_trainer, make_batch):
    trainer, batch = make_trainer(), make_batch(4, 8, 4)
    with HostReads() as reads:
        trainer.train_step(batch)
        assert reads.count > 0  # on a CPU, where it costs nothing
        reads.count, trainer.checks_each_step = 0, False
        trainer.train_step(batch)
        assert reads.count == 0
    trainer.check()


def test_a_later_check_names_the_step_and_says_that_the_weights_are_lost(
    make_trainer, make_batch, monkeypatch
):
    trainer, batch = make_trainer(), make_batch(4, 8, 4)
    trainer.checks_each_step = False
    for step in range(5):
        with monkeypatch.context() as patch:
            if step == 2:
                _poison_loss(trainer, patch)
            trainer.train_step(batch)
    with pytest.raises(NonFiniteLossError, match="unet_1, step 2: the loss is nan") as caught:
        trainer.check()
    assert not caught.value.intact
