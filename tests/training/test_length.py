"""Steps, epochs and minutes become steps."""

import pytest

from minimagen.config import DataConfig, DiffusionConfig, ImagenConfig, TrainingConfig
from minimagen.imagen import Imagen
from minimagen.shapes.dataset import ShapesDataset
from minimagen.training import length
from minimagen.training.length import steps_of
from minimagen.training.plan import Plan

STAGE = DiffusionConfig(unet={"dim": 8, "dim_mults": (1,), "attn_heads": 1, "attn_head_dim": 4})
STAGES = ({"share": 3.0, "batch_size": 5}, {"share": 1.0})


@pytest.fixture
def steps(text_encoder, one_thread):
    imagen = Imagen(ImagenConfig(image_sizes=(8, 16), stages=(STAGE, STAGE)), text_encoder)
    dataset = ShapesDataset(size=16, epoch_size=12)

    def count(chosen=(0, 1), **given):
        config = TrainingConfig(batch_size=4, stages=STAGES, **given)
        plan = Plan(imagen, config, DataConfig(), chosen, dataset, [], [])
        return steps_of(plan)

    return count


def test_an_epoch_is_every_image_once_in_each_stages_batches(steps):
    assert steps(epochs=2) == (5, 6)
    assert steps(steps=7) == (7, 7) and steps(steps=(3, 9)) == (3, 9)


def test_minutes_are_divided_among_the_chosen_stages(steps, monkeypatch):
    monkeypatch.setattr(length, "_seconds_per_step", lambda *a: (0.5, 0.1)[a[1]])
    seconds = 60 * length.OVERHEAD
    assert steps(minutes=1) == (int(seconds * 0.75 / 0.5), int(seconds * 0.25 / 0.1))
    alone = steps(minutes=1, chosen=(0,))
    assert alone[0] == int(seconds / 0.5)
    assert alone[1] == int(seconds / 3 / 0.1)  # for a later run, in the proportion of the shares


def test_the_clock_starts_after_the_first_steps(steps, monkeypatch):
    """Each step takes 2 s; the first takes 100 more and does not count."""
    clock = iter([0, 104, 124, 0, 104, 124])
    monkeypatch.setattr(length.time, "perf_counter", lambda: next(clock))
    ticks = steps(minutes=1, chosen=(0,))
    assert ticks[0] == int(60 * length.OVERHEAD / 2)
