"""What a network costs is what a real one has, keeps and computes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from minimagen.config import DiffusionConfig, LearnerTrainingConfig, UNetConfig
from minimagen.imagen import Imagen
from minimagen.networks import cost
from minimagen.networks.unet import UNet, count_parameters
from minimagen.stages.diffusion import DiffusionStage
from minimagen.storage.directory import read_parameters
from minimagen.training.trainer import Trainer

PRESETS = Path(__file__).parents[2] / "parameters"


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
    measured = cost.measure(stage, (side, side), None, (5, 12))
    assert measured.flops == stem_and_end + down_and_middle + up + noise_level + scale_and_shift


def test_parameters_are_those_of_the_real_cascade() -> None:
    parameters = read_parameters(PRESETS / "testing")
    imagen = Imagen(parameters.imagen)
    networks = [
        cost.on_meta(stage.unet, imagen.text_encoder.embed_dim, lowres_cond=i > 0)
        for i, stage in enumerate(parameters.imagen.stages)
    ]
    assert all(p.is_meta for network in networks for p in network.parameters())
    assert [count_parameters(n) for n in networks] == [
        count_parameters(stage) for stage in imagen.stages
    ]


def test_activations_are_what_a_real_backward_pass_keeps() -> None:
    config = UNetConfig(dim=16, dim_mults=(1, 2), layer_attns=(False, True), attn_heads=2)
    stage = DiffusionConfig(unet=config, crop=16)
    measured = cost.measure(stage, (32, 32), (16, 16), (5, 12))
    whole = DiffusionConfig(unet=config)
    small = cost.measure(whole, (16, 16), (8, 8), (5, 12))
    assert measured.training_flops == small.training_flops == small.flops < measured.flops / 4
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
        network(x, level, context, torch.randn(1, 3, 16, 16), level)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert measured.activations == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_what_training_keeps_of_the_parameters_is_what_a_real_step_leaves(optimizer: str) -> None:
    config = UNetConfig(dim=16, dim_mults=(1, 2), layer_attns=(False, True), attn_heads=2)
    stage = DiffusionConfig(unet=config)
    measured = cost.measure(stage, (16, 16), (8, 8), (5, 12))
    real = DiffusionStage(1, stage, (16, 16), (8, 8), 12)
    trainer = Trainer(real, 1, LearnerTrainingConfig(optimizer=optimizer), total_steps=1, seed=0)
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
    assert cost.states_bytes(measured, optimizer) == sum(tensor.nbytes for tensor in kept)


def test_sampling_memory_follows_what_is_alive() -> None:
    layers = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(5)))
    layers.to("meta")
    with torch.no_grad(), cost._LiveBytes(layers) as live:
        layers(torch.empty(8, 4, device="meta"))
    output = 4 * 8 * 4
    assert live.peak == 3 * output  # the input, held by the caller, and a layer's input and output


def test_with_activation_checkpointing_only_blocks_inputs_and_one_block_are_kept() -> None:
    config = UNetConfig(dim=16, dim_mults=(1, 2), num_resnet_blocks=2, attn_heads=2)
    measured = cost.measure(DiffusionConfig(unet=config), (32, 32), (8, 8), (6, 12))
    feature_map = 4 * 16 * 32 * 32
    assert 8 * feature_map < measured.recomputed < 0.6 * measured.activations
