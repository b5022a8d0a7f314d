import pytest
import torch
from torch import nn

from minimagen.training.ema import EMA


def follow(weights, decay):
    """Return the average after each weight of ``weights``, the first being the start."""
    module = nn.Linear(1, 1, bias=False).double()
    module.weight.data.fill_(weights[0])
    ema = EMA(module, decay)
    averages = []
    for weight in weights[1:]:
        module.weight.data.fill_(weight)
        ema.update()
        averages.append(ema.state()["weight"].item())
    return averages


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_average_has_its_closed_form_with_warm_up(decay):
    """After N updates: sum over n of w_n (1 - d_n) prod_{m > n} d_m, d_n = min(d, (1+n)/(10+n))."""
    weights = torch.randn(41, generator=torch.Generator().manual_seed(0)).double()
    decays = torch.tensor([min(decay, (1 + n) / (10 + n)) for n in range(40)], dtype=torch.float64)
    shares = [decays.prod()]
    shares += [(1 - decays[n]) * decays[n + 1 :].prod() for n in range(40)]
    expected = (torch.stack(shares) * weights).sum().item()
    assert follow(weights.tolist(), decay)[-1] == pytest.approx(expected, rel=1e-12)
    assert sum(shares).item() == pytest.approx(1.0)


def test_the_first_average_is_mostly_the_first_update_and_late_ones_are_slow():
    assert follow([0.0, 1.0], 0.999)[0] == pytest.approx(0.9)
    late = follow([0.0] * 20_001 + [1.0], 0.999)[-1]
    assert late == pytest.approx(0.001, rel=1e-6)


def test_swapping_lends_the_average_and_gives_the_weights_back():
    module = nn.Linear(2, 2)
    ema = EMA(module, 0.9)
    average = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    live = module.weight.detach().clone()
    with ema.swapped_in():
        assert torch.equal(module.weight, average)
    assert torch.equal(module.weight, live)
    assert torch.equal(ema.state()["weight"], average)
    with pytest.raises(RuntimeError), ema.swapped_in():
        raise RuntimeError
    assert torch.equal(module.weight, live)


def test_a_loaded_average_goes_on_where_it_was():
    weights = torch.randn(30, generator=torch.Generator().manual_seed(1)).tolist()
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(module, 0.99)
    for i, weight in enumerate(weights):
        module.weight.data.fill_(weight)
        ema.update()
        if i == 12:
            other = EMA(module, 0.99)
            other.load({k: v.clone() for k, v in ema.state().items()}, ema.updates)
        elif i > 12:
            other.update()
    assert torch.equal(ema.state()["weight"], other.state()["weight"])


def test_a_kept_average_is_the_modules_and_its_own():
    module = nn.Linear(2, 2)
    ema = EMA(module, 0.9)
    average = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    ema.keep()
    assert torch.equal(module.weight, average)
    with torch.no_grad():
        module.weight.add_(1.0)
    assert torch.equal(ema.state()["weight"], average)
