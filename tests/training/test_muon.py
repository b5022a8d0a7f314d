import pytest
import torch
from torch import nn

from minimagen.device import autocast
from minimagen.training import muon
from minimagen.training.muon import NEWTON_SCHULZ, Muon, orthogonalize


def newton_schulz(x):
    """The iteration as it is written down: on the matrix itself."""
    x = x / x.norm()
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_it_equals_the_iteration_on_the_matrix_itself(shape):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one, expected in zip(orthogonalize(x), map(newton_schulz, x), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 576), (128, 64)])
def test_singular_values_end_near_1_and_singular_vectors_stay(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    y = orthogonalize(x[None])[0]
    values = torch.linalg.svdvals(y)
    assert 0.72 < values.min() and values.max() < 1.28
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    rotated = u.T @ y @ v.T
    assert (rotated - rotated.diagonal().diag()).abs().max() < 1e-4


def test_in_bfloat16_singular_values_end_as_near_to_1_and_the_matrix_differs_by_two_percent():
    x = torch.randn(3, 64, 576, generator=torch.Generator().manual_seed(2))
    for size in (1.0, 1e-6):  # gradients are small
        exact, rounded = orthogonalize(size * x), orthogonalize((size * x).bfloat16()).float()
        values = torch.linalg.svdvals(rounded)
        assert 0.71 < values.min() and values.max() < 1.3
        difference = (rounded - exact).norm() / exact.norm()
        assert 1e-4 < difference < 0.02


def test_nothing_becomes_of_a_matrix_of_zeros():
    for dtype in (torch.float32, torch.bfloat16):
        assert not orthogonalize(torch.zeros(2, 4, 8, dtype=dtype)).any()


def test_under_autocast_the_matrices_are_of_its_dtype(monkeypatch):
    seen = []

    def watched(matrices):
        seen.append(matrices.dtype)
        return orthogonalize(matrices)

    monkeypatch.setattr(muon, "orthogonalize", watched)
    ends = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(32, 48))
        p.grad = torch.randn(32, 48)
        start = p.detach().clone()
        with autocast(torch.device("cpu"), precision):
            Muon([p], lr=0.1).step()
        ends.append(p.detach() - start)
    assert seen == [torch.float32, torch.bfloat16]
    assert (ends[1] - ends[0]).norm() / ends[0].norm() < 0.04


def test_with_its_polynomial_steps_equal_torchs_muon_and_have_the_size_of_adamws(monkeypatch):
    monkeypatch.setattr(muon, "NEWTON_SCHULZ", ((3.4445, -4.7750, 2.0315),) * 5)
    torch.manual_seed(0)
    start = torch.randn(48, 32)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for step in range(3):
        before = ours.detach().clone()
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            p.grad = torch.randn(48, 32, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        moved = ours.detach() - before * (1 - 0.02 * 0.1)
        assert moved.square().mean().sqrt() == pytest.approx(0.2 * 0.02, rel=0.15)
    # torch iterates in bf16: three digits
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=0.02 * 0.2 * 0.1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_trained_like_its_matrix_in_any_memory_format(memory_format):
    torch.manual_seed(0)
    start, gradient = torch.randn(4, 6, 3, 3), torch.randn(4, 6, 3, 3)
    kernel = nn.Parameter(start.clone().to(memory_format=memory_format))
    matrix = nn.Parameter(start.movedim(1, -1).reshape(4, 54).clone())
    kernel.grad, matrix.grad = gradient.clone(), gradient.movedim(1, -1).reshape(4, 54).clone()
    for p in (kernel, matrix):
        Muon([p], lr=0.1).step()
    expected = matrix.detach().reshape(4, 3, 3, 6).movedim(-1, 1)
    torch.testing.assert_close(kernel.detach(), expected)
    assert (kernel.detach() - start).abs().max() > 1e-3


def test_matrices_of_one_shape_do_not_touch_each_other():
    torch.manual_seed(0)
    pair = [nn.Parameter(torch.randn(5, 7)) for _ in range(2)]
    alone = nn.Parameter(pair[1].detach().clone())
    for p in (*pair, alone):
        p.grad = torch.randn(5, 7, generator=torch.Generator().manual_seed(int(p is pair[0])))
    Muon(pair, lr=0.1).step()
    Muon([alone], lr=0.1).step()
    torch.testing.assert_close(pair[1].detach(), alone.detach())
