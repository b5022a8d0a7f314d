from pathlib import Path

import pytest
import torch

from minimagen.draws import Draws, SeededNoise, derive_seed, seeded
from minimagen.imagen import Imagen
from minimagen.storage.directory import read_parameters

ROOT = Path(__file__).parents[1]

DRAWS = Draws(seed=7, learner=1, step=42, batch_size=12)
KINDS = {
    "uniform": lambda draws: draws.uniform("time"),
    "stratified": lambda draws: draws.stratified("time"),
    "normal": lambda draws: draws.normal("noise", (3, 5, 4)),
}
kinds = pytest.mark.parametrize("draw", KINDS.values(), ids=KINDS.keys())


@kinds
@pytest.mark.parametrize("sizes", [(12,), (6, 6), (3, 3, 3, 3), (5, 1, 6), (1,) * 12])
def test_any_split_of_the_batch_has_the_same_draws_to_the_bit(draw, sizes):
    parts, start = [], 0
    for size in sizes:
        parts.append(draw(DRAWS.slice(start, size)))
        assert len(parts[-1]) == size
        start += size
    assert torch.equal(torch.cat(parts), draw(DRAWS))


@kinds
def test_draws_do_not_depend_on_what_was_drawn_before(draw):
    first = draw(DRAWS)
    torch.manual_seed(0)
    DRAWS.slice(4, 2).normal("other", (2,))
    torch.rand(3)
    assert torch.equal(draw(DRAWS), first)
    state = torch.random.get_rng_state()
    draw(DRAWS)
    assert torch.equal(torch.random.get_rng_state(), state)  # and leave no trace themselves


@kinds
def test_draws_do_not_depend_on_torchs_defaults(draw):
    noise = SeededNoise((3, 4), 0)
    first, sampled = draw(DRAWS), noise("start", (2, 5))
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            assert torch.equal(draw(DRAWS), first) and draw(DRAWS).dtype == first.dtype
            assert torch.equal(noise("start", (2, 5)), sampled) and sampled.dtype == torch.float32
    finally:
        torch.set_default_dtype(dtype)


def test_weights_are_made_without_a_trace_in_torchs_generators(monkeypatch):
    """A seed of all GPUs would be one of the user's numbers there, too."""

    def seeds_all(_):
        raise AssertionError("other generators were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds_all)
    state = torch.get_rng_state()
    with seeded(7, "weights"):
        first = torch.randn(3)
        assert first.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_default_dtype(torch.float64)
    try:
        with seeded(7, "weights"):
            assert torch.equal(torch.randn(3), first)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    for preset in ("latent", "clip"):
        config = read_parameters(ROOT / "parameters" / preset).imagen
        one, other = (Imagen(config, seed=2) for _ in range(2))
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


@kinds
def test_draws_do_not_depend_on_the_number_of_threads(draw):
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(draw(DRAWS))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


@kinds
@pytest.mark.parametrize("change", ["seed", "learner", "step"])
def test_every_part_of_the_key_matters(draw, change):
    key = {"seed": 7, "learner": 1, "step": 42, "batch_size": 12}
    assert not torch.equal(draw(Draws(**(key | {change: 3}))), draw(DRAWS))


def test_names_and_rows_are_independent():
    assert not torch.equal(DRAWS.uniform("a"), DRAWS.uniform("b"))
    rows = DRAWS.normal("noise", (1000,))
    correlation = torch.corrcoef(rows) - torch.eye(12)
    assert correlation.abs().max() < 0.15  # sd 0.03
    assert len({DRAWS.slice(i, 1).network_seed() for i in range(12)}) == 12


@pytest.mark.parametrize("size", [1, 7, 64])
def test_stratified_draws_fill_every_stratum_once(size):
    numbers = Draws(0, 0, 5, size).stratified("time")
    assert (numbers * size).long().sort().values.tolist() == list(range(size))
    assert 0.0 <= numbers.min() and numbers.max() < 1.0


def test_each_row_of_stratified_draws_is_uniform_by_itself():
    first = torch.cat([Draws(0, 0, step, 8, 0, 1).stratified("time") for step in range(2000)])
    counts = torch.histc(first.float(), 10, 0.0, 1.0)
    assert (counts - 200).abs().max() < 4.5 * (200 * 0.9) ** 0.5


def test_normal_draws_are_standard():
    numbers = Draws(0, 0, 0, 64).normal("noise", (3, 32, 32))
    assert numbers.dtype == torch.float32
    assert abs(numbers.mean().item()) < 0.01
    assert numbers.std().item() == pytest.approx(1.0, abs=0.01)


def test_sampling_noise_depends_on_seed_stage_and_name_only():
    together = SeededNoise([5, 9, 5], 0)("start", (3, 4, 4))
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together[1:2], SeededNoise([9], 0)("start", (3, 4, 4)))
    for stage, name in ((1, "start"), (0, 0), (0, "aug")):
        assert not torch.equal(SeededNoise([5], stage)(name, (3, 4, 4)), together[:1])


def test_seeds_are_stable_between_versions_of_the_program():
    """A change would repaint every image that somebody noted the seed of."""
    assert derive_seed(0, 1, "start") == 3240856724711212071
    assert len({derive_seed(a, b) for a in range(50) for b in range(50)}) == 2500
    assert derive_seed(1, "2") != derive_seed(1, 2) != derive_seed(12)
