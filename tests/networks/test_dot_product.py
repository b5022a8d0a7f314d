"""Attention in the precision whose kernels are fast."""

import pytest
import torch
from torch import Tensor

from minimagen.networks.dot_product import attend

MASK = torch.tensor([[True, True, False, True, True]])


def by_hand(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The formula, in float64."""
    scores = queries.double() @ keys.double().mT / queries.shape[-1] ** 0.5
    return scores.masked_fill(~MASK, -torch.inf).softmax(-1) @ values.double()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
def test_attention_and_its_gradients_are_those_of_the_formula(
    precision: torch.dtype, autocast: bool
) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, n, 4).to(precision).requires_grad_() for n in (6, 5, 5)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    weights = torch.randn(2, 3, 6, 4).double()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        attended = attend(*inputs, MASK)
    assert attended.dtype == precision
    expected = by_hand(*exact)
    (attended.double() * weights).sum().backward()
    (expected * weights).sum().backward()
    rounded = {torch.bfloat16: 0.02, torch.float32: 1e-5, torch.float64: 1e-12}[precision]
    torch.testing.assert_close(attended.double(), expected, rtol=rounded, atol=rounded)
    for x, y in zip(inputs, exact, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=rounded, atol=rounded)


def test_training_in_bfloat16_computes_attention_in_float32() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 40, 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = torch.nn.functional.scaled_dot_product_attention(*[x.float() for x in inputs])
    assert torch.equal(attend(*inputs), exact.bfloat16())
