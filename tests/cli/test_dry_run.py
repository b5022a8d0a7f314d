"""The dry run's figures are those of real networks and of counting by hand."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from minimagen.cli import dry_run, train
from minimagen.config import DiffusionConfig, StageTrainingConfig, UNetConfig
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.networks.unet import UNet, count_parameters
from minimagen.stages.diffusion import DiffusionStage
from minimagen.storage.directory import read_parameters
from minimagen.training.trainer import Trainer

PRESETS = Path(__file__).parents[2] / "parameters"


def on_meta(config: UNetConfig, text_embed_dim: int = 12, lowres_cond: bool = False) -> UNet:
    with torch.device("meta"):
        return UNet(config, text_embed_dim, lowres_cond)


def test_flops_of_a_convolutional_network_are_those_counted_by_hand() -> None:
    config = UNetConfig(
        dim=8, dim_mults=(1,), layer_cross_attns=False, attend_at_middle=False, attn_heads=1
    )
    side = 16

    def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
        return 2 * inputs * outputs * kernel**2 * side**2

    def linear(inputs: int, outputs: int) -> int:
        return 2 * inputs * outputs

    stem_and_end = conv(3, 8) + conv(16, 3)
    down_and_middle = 3 * 2 * conv(8, 8)
    up = conv(16, 8) + conv(8, 8) + conv(16, 8, kernel=1)  # the skip joins: 8 + 8 channels
    noise_level = linear(64, 32) + linear(32, 32)
    scale_and_shift = 4 * linear(32, 16)
    stage = DiffusionConfig(unet=config)
    cost = dry_run.measure(on_meta(config), stage, (side, side), None, (5, 12))
    assert cost.flops == stem_and_end + down_and_middle + up + noise_level + scale_and_shift


def test_parameters_are_those_of_the_real_cascade() -> None:
    parameters = read_parameters(PRESETS / "testing")
    imagen = Imagen(parameters.imagen)
    networks = dry_run.build(parameters, imagen.text_encoder.embed_dim)
    assert all(p.is_meta for network in networks for p in network.parameters())
    assert [count_parameters(n) for n in networks] == [
        count_parameters(stage) for stage in imagen.stages
    ]


def test_activations_are_what_a_real_backward_pass_keeps() -> None:
    config = UNetConfig(dim=16, dim_mults=(1, 2), layer_attns=(False, True), attn_heads=2)
    stage = DiffusionConfig(unet=config, crop=16)
    cost = dry_run.measure(on_meta(config, lowres_cond=True), stage, (32, 32), (16, 16), (5, 12))
    whole = DiffusionConfig(unet=config)
    small = dry_run.measure(on_meta(config, lowres_cond=True), whole, (16, 16), (8, 8), (5, 12))
    assert cost.training_flops == small.training_flops == small.flops < cost.flops / 4
    network = UNet(config, 12, lowres_cond=True)
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mask = torch.ones(1, 5, dtype=torch.bool)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        context = network.encode_text(torch.randn(1, 5, 12), mask, ~mask[:, 0])
        x, level = torch.randn(1, 3, 16, 16), torch.zeros(1)
        network(x, level, context, torch.randn(1, 3, 8, 8), level)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert cost.activations == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_what_training_keeps_of_the_parameters_is_what_a_real_step_leaves(optimizer: str) -> None:
    config = UNetConfig(dim=16, dim_mults=(1, 2), layer_attns=(False, True), attn_heads=2)
    stage = DiffusionConfig(unet=config)
    cost = dry_run.measure(on_meta(config, lowres_cond=True), stage, (16, 16), (8, 8), (5, 12))
    real = DiffusionStage(1, stage, (16, 16), (8, 8), 12)
    trainer = Trainer(real, 1, StageTrainingConfig(optimizer=optimizer), total_steps=1, seed=0)
    for parameter in real.parameters():
        parameter.grad = torch.ones_like(parameter)
    for one in trainer.optimizers:
        one.step()
    kept = [*real.parameters(), *(p.grad for p in real.parameters() if p.grad is not None)]
    kept += trainer.ema.state().values()
    kept += [
        value
        for one in trainer.optimizers
        for state in one.state.values()
        for value in state.values()
        if value.ndim  # AdamW's counters of steps are not worth a row
    ]
    assert dry_run.states_bytes(cost, optimizer) == sum(tensor.nbytes for tensor in kept)


def test_every_stage_has_its_own_batch_and_optimizer() -> None:
    base = read_parameters(PRESETS / "testing")

    def rows(**changes: Any) -> dict[str, list[str]]:
        training = base.training.replace(batch_size=12, accum_iter=2, **changes)
        lines = dry_run.report(base._replace(training=training)).splitlines()
        cells = [re.split(r"  +", line.strip()) for line in lines if line]
        return {name: values for name, *values in cells}

    own = rows(stages=[{"batch_size": 4}, {"optimizer": "adamw"}])
    assert own["pictures in a micro-batch"] == ["2", "6"]
    assert own["optimizer"] == ["muon", "adamw"]
    of_all = rows(stages=[{"batch_size": 4}])
    assert of_all["pictures in a micro-batch"] == ["2", "2"]
    assert rows(stages=[])["pictures in a micro-batch"] == ["6", "6"]
    one, batch = (own[f"activations of {n}"] for n in ("one picture", "a micro-batch"))
    for i, pictures in enumerate((2, 6)):
        assert number(batch[i]) == pytest.approx(pictures * number(one[i]), rel=0.01)
    with pytest.raises(UserError, match="3 entries for 2 stages"):
        rows(stages=[{}, {}, {}])


def number(bytes_: str) -> float:
    """5.1 MiB -> 5.1 * 2**20."""
    value, unit = bytes_.split()
    return float(value) * 1024 ** ("B", "KiB", "MiB", "GiB").index(unit)


def test_sampling_memory_follows_what_is_alive() -> None:
    layers = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(5)))
    layers.to("meta")
    with torch.no_grad(), dry_run._LiveBytes(layers) as live:
        layers(torch.empty(8, 4, device="meta"))
    output = 4 * 8 * 4
    assert live.peak == 3 * output  # the input, held by the caller, and a layer's input and output


def test_guidance_doubles_what_sampling_computes() -> None:
    folder = PRESETS / "testing"
    base = read_parameters(folder)

    def painted(scale: float) -> list[str]:
        stages = [
            stage.replace(sampling=stage.sampling.replace(guidance_scale=scale)).model_dump()
            for stage in base.imagen.stages
        ]
        parameters = base._replace(imagen=base.imagen.replace(stages=stages))
        rows = dry_run.report(parameters).splitlines()
        return next(row for row in rows if row.startswith("FLOPs to paint")).split()[-4:]

    alone, guided = painted(1.0), painted(2.0)
    assert float(guided[0]) == pytest.approx(2 * float(alone[0]), rel=0.01)
    assert alone[1::2] == guided[1::2] == ["MFLOPs", "MFLOPs"]


def test_the_papers_cascade_is_told_in_time_and_without_its_text_encoder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.perf_counter()
    assert train.entry(["-p", str(PRESETS / "imagen_64_256_1024"), "--DRY_RUN"]) == 0
    assert time.perf_counter() - start < 60
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    millions = [float(n) for n in rows["parameters"][1::2]]
    assert millions == pytest.approx([1981, 644, 628], rel=0.02)
    assert "2000 M" in out and "BigGAN" in out
    assert not list(tmp_path.iterdir())


def test_the_papers_numbers_stand_beside_its_own_sizes_only() -> None:
    assert "paper" not in dry_run.report(read_parameters(PRESETS / "testing"))
