"""Weights in eight bits."""

from pathlib import Path

import torch

from minimagen.storage.checkpoint import load_weights, save_weights
from minimagen.storage.quantized import SCALE, dequantized, quantized


def weights() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    kernel = (
        torch.randn(64, 8, 3, 3, generator=random) * torch.logspace(-3, 2, 64)[:, None, None, None]
    )
    return {
        "kernel": kernel,
        "matrix": torch.randn(40, 50, generator=random),
        "small": torch.randn(4, 4, generator=random),
        "bias": torch.randn(64, generator=random),
        "zero": torch.zeros(32, 64),
        "steps": torch.arange(5),
    }


def test_a_weight_moves_by_half_a_step_of_its_row_at_most(tmp_path: Path) -> None:
    given = weights()
    save_weights(tmp_path / "x.safetensors", quantized(given), {"step": 3})
    found, header = load_weights(tmp_path / "x.safetensors")
    assert found.keys() == given.keys() and header == {"step": 3}
    for name in ("kernel", "matrix"):
        rows = given[name].flatten(1)
        step = rows.abs().amax(1, keepdim=True) / 127
        error = (found[name].flatten(1) - rows).abs()
        assert found[name].dtype == torch.float32
        assert (error <= step * 0.5001).all() and error.max() > 0
    for name in ("small", "bias"):
        torch.testing.assert_close(found[name].float(), given[name], rtol=1e-3, atol=1e-4)
    assert not found["zero"].any() and torch.equal(found["steps"], given["steps"])


def test_eight_bits_are_a_quarter_of_the_bytes() -> None:
    packed = quantized(weights())
    assert packed["kernel"].dtype == torch.int8 and packed["kernel" + SCALE].shape == (64,)
    assert packed["kernel"].nbytes * 4 == weights()["kernel"].nbytes


def test_other_weights_stay_as_they_are() -> None:
    given = {"a.scale": torch.ones(3), "a": torch.ones(2), "b": torch.ones(2, dtype=torch.int8)}
    found = dequantized(given)
    assert found.keys() == given.keys()
    assert all(found[name] is given[name] for name in given)
