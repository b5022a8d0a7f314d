import pytest
import torch
from torch import nn

from minimagen.config import DiffusionConfig, LearnerTrainingConfig
from minimagen.learner import Learner, ParameterGroups
from minimagen.stages.diffusion import DiffusionStage
from minimagen.training.muon import Muon
from minimagen.training.optim import build_optimizers, learning_rate
from minimagen.training.processes.alone import Processes

SHAPE = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_head_dim": 4}
CONFIG = LearnerTrainingConfig(optim_lr=2e-3, warmup_steps=50)


class LearnerOf(Learner):
    """A learner of the given layers that names no hidden matrices."""

    name, image_sizes = "layers", ()

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def loss(self, batch, draws):
        raise NotImplementedError


def rates(total, config=CONFIG):
    return [learning_rate(step, total, config) for step in range(total)]


@pytest.mark.parametrize("total", [501, 1000, 10_000])
def test_the_rate_warms_up_peaks_and_decays_to_0(total):
    series = torch.tensor(rates(total), dtype=torch.float64)
    assert series[0] == pytest.approx(2e-3 / 50)
    assert series.max() == pytest.approx(2e-3) and series.argmax() in (49, 50)
    assert (series[:50].diff() > 0).all() and (series[50:].diff() < 0).all()
    torch.testing.assert_close(series[50:].diff(), series[50:].diff()[:1].expand(total - 51))
    assert series[50] == pytest.approx(2e-3)  # no jump where the decay begins
    assert learning_rate(total, total, CONFIG) == 0.0
    assert 0 < series[-1] <= 2e-3 / (total - 50) * (1 + 1e-9)


@pytest.mark.parametrize("total", [1, 2, 9, 10, 49, 200])
def test_in_short_runs_the_warm_up_takes_at_most_a_tenth(total):
    series = rates(total)
    assert max(series) == pytest.approx(2e-3)
    assert series.index(max(series)) <= total // 10
    assert min(series) > 0


def test_weight_decay_acts_on_matrices_only():
    module = LearnerOf(nn.Linear(3, 3), nn.LayerNorm(3))
    config = LearnerTrainingConfig(optimizer="adamw", weight_decay=0.1)
    [optimizer] = build_optimizers(module, config, Processes())
    before = [p.detach().clone() for p in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, module.parameters(), strict=True):
        factor = 1 - 1e-3 * 0.1 if old.ndim > 1 else 1.0
        torch.testing.assert_close(new.detach(), old * factor)


def test_frozen_parameters_are_left_out():
    module = LearnerOf(nn.Linear(2, 2))
    module.layers[0].bias.requires_grad_(False)
    assert module.parameter_groups() == ParameterGroups([], [module.layers[0].weight])
    [optimizer] = build_optimizers(module, CONFIG.replace(optimizer="adamw"), Processes())
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]


def test_a_learner_that_names_no_hidden_matrices_is_trained_by_adamw_alone():
    learner, config = LearnerOf(nn.Linear(2, 2)), CONFIG.replace(optimizer="muon")
    [optimizer] = build_optimizers(learner, config, Processes())
    assert isinstance(optimizer, torch.optim.AdamW)


def test_muon_trains_the_hidden_matrices_and_adamw_every_other_parameter_once():
    stage = DiffusionStage(1, DiffusionConfig(unet=SHAPE), (16, 16), (8, 8), 12)
    muon, adamw = build_optimizers(stage, CONFIG, Processes())
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    names = {id(p): name for name, p in stage.named_parameters()}
    by_muon, by_adamw = (
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (muon, adamw)
    )
    assert by_muon | by_adamw == set(names.values()) and not by_muon & by_adamw
    assert {"unet.mid_in.res.conv_in.weight", "unet.mid_in.attention.to_q.weight"} <= by_muon
    assert "unet.ups.0.resample.conv.weight" in by_muon
    for part in ("unet.conv_in.", "unet.conv_out.", "unet.text", "unet.time.", "unet.aug."):
        assert any(name.startswith(part) for name in by_adamw)
        assert not any(name.startswith(part) for name in by_muon)
    assert not any(".embed." in name or name.endswith("bias") for name in by_muon)


def test_muons_momentum_is_the_first_beta():
    stage = DiffusionStage(0, DiffusionConfig(unet=SHAPE), (8, 8), None, 12)
    config = CONFIG.replace(optimizer="muon", betas=(0.7, 0.99))
    muon, adamw = build_optimizers(stage, config, Processes())
    assert isinstance(muon, Muon)
    assert {group["momentum"] for group in muon.param_groups} == {0.7}
    assert {group["betas"] for group in adamw.param_groups} == {(0.7, 0.99)}
