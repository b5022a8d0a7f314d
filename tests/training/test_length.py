"""Steps and epochs become steps for every stage, minutes are divided among them."""

import pytest

from minimagen.config import DataConfig, DiffusionConfig, ImagenConfig, TrainingConfig
from minimagen.config.training import Revision
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.shapes.dataset import ShapesDataset
from minimagen.training.clock import planned
from minimagen.training.length import with_lengths
from minimagen.training.plan import Plan

STAGE = DiffusionConfig(unet={"dim": 8, "dim_mults": (1,), "attn_heads": 1, "attn_head_dim": 4})
STAGES = ({"share": 3.0, "batch_size": 5}, {"share": 1.0})


@pytest.fixture
def lengths(text_encoder, one_thread):
    imagen = Imagen(ImagenConfig(image_sizes=(8, 16), stages=(STAGE, STAGE)), text_encoder)
    dataset = ShapesDataset(size=16, epoch_size=12)

    def find(chosen=(0, 1), **given):
        config = TrainingConfig(batch_size=4, learners=STAGES, **given)
        plan = Plan(imagen, config, DataConfig(), chosen, dataset, [], [])
        return with_lengths(plan).config

    return find


def test_an_epoch_is_every_image_once_in_each_stages_batches(lengths):
    assert lengths(epochs=2).steps == (5, 6)
    assert lengths(steps=7).steps == (7, 7) and lengths(steps=(3, 9)).steps == (3, 9)


def test_minutes_are_divided_among_the_chosen_stages(lengths):
    assert lengths(minutes=4).minutes == (3.0, 1.0)
    assert lengths(minutes=3, chosen=(0,)).minutes == (3.0, 1.0)  # 1: for a later run
    assert lengths(minutes=(2, 5), chosen=(0,)).minutes == (2.0, 5.0)
    with pytest.raises(UserError, match="`minutes` has 3 entries for 2 learners"):
        lengths(minutes=(1, 2, 3))


def test_minutes_are_added_to_the_chosen_stages_and_open_what_had_ended(lengths):
    def ended(step):
        return Revision(step=step, steps=step, spent=1.0, seconds=60.0)

    config = lengths(minutes=4).replace(revisions=((ended(90),), (ended(30),)))
    assert (config.steps_of(0), config.steps_of(1)) == (90, 30)
    longer = config.extended(1, chosen=(1,))
    assert longer.minutes == (3.0, 2.0) and longer.revisions[0] == config.revisions[0]
    again = longer.revisions[1][-1]
    assert (again.step, again.ended, again.spent, again.seconds) == (30, False, 0.5, 60.0)
    assert longer.steps_of(1) is None
    of_steps = lengths(steps=7).extended(4, chosen=(0, 1))
    assert (of_steps.steps, of_steps.minutes) == (None, (3.0, 1.0))
    begun = Revision(step=0, steps=7, spent=0.0, seconds=0.0)
    assert of_steps.revisions == ((begun,), (begun,))
    one = lengths(steps=7).extended(4, chosen=(1,))
    assert (one.steps_of(0), one.steps_of(1)) == (7, None)
    assert planned(0, one.revisions[0]) == (7, 7.0)
