"""Noise that is drawn one step ahead: the same numbers to the bit, drawn before they are needed."""

import pytest
import torch

from minimagen.config import DiffusionConfig, LearnerTrainingConfig
from minimagen.draws import Draws
from minimagen.stages.diffusion import DiffusionStage
from minimagen.training.noise_ahead import DrawsAhead, NoiseAhead
from minimagen.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def test_the_numbers_are_those_of_draws_whatever_was_foreseen() -> None:
    ahead = NoiseAhead(CPU)
    shapes = [(3, 4, 4), (3, 4, 4), (3, 2, 6), (3, 4, 4), (3, 4, 4)]  # the third is not foreseen
    for step, shape in enumerate(shapes):
        plain, own = Draws(7, 1, step, 6), DrawsAhead(7, 1, step, 6, ahead=ahead)
        for rows in ((0, 2), (2, 4)):
            for name in ("noise", "aug_noise"):
                expected = plain.slice(*rows).normal(name, shape)
                assert torch.equal(own.slice(*rows).normal(name, shape), expected)
        assert own.network_seed() == plain.network_seed()
        assert torch.equal(own.stratified("time"), plain.stratified("time"))
    assert len(ahead._coming) == 4  # of the next step alone: nothing is kept for ever


def test_the_next_step_finds_its_noise_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, drawn, real = NoiseAhead(CPU), [], Draws.normal

    def spy(draws: Draws, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if draws.seed == 99:  # another test's threads may still draw
            drawn.append(draws.step)
        return real(draws, name, shape)

    monkeypatch.setattr(Draws, "normal", spy)
    for step in range(3):
        DrawsAhead(99, 0, step, 2, ahead=ahead).normal("noise", (3,))
    ahead._threads.shutdown()
    assert sorted(drawn) == [0, 1, 2, 3]


def test_training_with_it_gives_the_same_weights(make_batch, text_encoder) -> None:
    ends = []
    for ahead in (False, True):
        torch.manual_seed(0)
        config = DiffusionConfig(unet={"dim": 8, "dim_mults": (1,), "attn_heads": 1})
        stage = DiffusionStage(1, config, (8, 8), (4, 4), text_encoder.embed_dim)
        trainer = Trainer(stage, 1, LearnerTrainingConfig(), 9, accum_iter=2, precision="fp32")
        trainer.noise = NoiseAhead(CPU) if ahead else None
        for size in (4, 4, 2, 4):
            trainer.train_step(make_batch(size, 8, 4))
        ends.append(torch.cat([p.detach().flatten() for p in stage.parameters()]))
    assert torch.equal(*ends)
