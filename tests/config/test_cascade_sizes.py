"""Which sizes a cascade can sample besides its own."""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest

from minimagen.config import ImagenConfig
from minimagen.config.cascade_sizes import aspect_buckets, with_side
from minimagen.config.sizes import nearest, scaled
from minimagen.errors import UserError
from minimagen.storage.directory import read_parameters

PARAMETERS = Path(__file__).parents[2] / "parameters"
UNET = {"dim": 8, "dim_mults": [1, 2]}  # sides are multiples of 2


def cascade(*sizes, unets=(UNET, UNET, UNET)):
    return ImagenConfig(image_sizes=sizes, stages=[{"unet": u} for u in unets[: len(sizes)]])


def test_the_demo_has_three_shapes():
    config = read_parameters(PARAMETERS).imagen
    assert aspect_buckets(config) == ((80, 48), (64, 64), (48, 80))


@pytest.mark.parametrize("folder", [".", "testing", "imagen_64_256_1024"])
def test_every_stage_can_sample_every_bucket(folder):
    config = read_parameters(PARAMETERS / folder).imagen
    full, buckets = config.image_sizes[-1], aspect_buckets(config)
    assert full in buckets
    for bucket in buckets:
        assert 0.8 * math.prod(full) < math.prod(bucket) <= math.prod(full)
        assert max(bucket) <= 2.5 * min(bucket)
        own = [scaled(size, full, bucket) for size in config.image_sizes]
        assert own[-1] == bucket
        config.replace(image_sizes=own)  # refuses sizes that a network cannot halve
        factors = {high[i] / low[i] for low, high in pairwise(own) for i in (0, 1)}
        assert all(factor == int(factor) for factor in factors)


def test_no_bucket_could_be_larger_and_all_shapes_are_there():
    """Brute force over all sizes of a stage of 32 px: in steps of an eighth, 4 px."""
    found = set(aspect_buckets(cascade([32, 32])))
    possible = {(h, w) for h in range(4, 129, 4) for w in range(4, 129, 4) if h * w <= 32 * 32}
    best = {
        (h, w)
        for h, w in possible
        if (h + 4, w) not in possible and (h, w + 4) not in possible
        if max(h, w) <= 2.5 * min(h, w)
    }
    assert found == best
    assert {(w, h) for h, w in found} == found  # of a square cascade


def test_a_later_network_that_halves_more_often_makes_steps_larger():
    deep = {"dim": 8, "dim_mults": [1, 2, 2, 2, 2]}  # sides are multiples of 16
    plain, coarse = (
        aspect_buckets(cascade([32, 32], [64, 64], unets=(UNET, last))) for last in (UNET, deep)
    )
    assert all(side % 16 == 0 for size in coarse for side in size)
    assert len(coarse) < len(plain)


def test_buckets_of_stable_diffusion_fit_its_autoencoder():
    """Sides of its latents are an eighth of the image's, and halved three times: 64 px."""
    stage = {"kind": "diffusers", "unet": {}, "schedule": {}, "autoencoder": "a/folder"}
    for side in (512, 768):
        found = aspect_buckets(ImagenConfig(image_sizes=[side], stages=[stage]))
        assert len(found) > 3
        assert all(each % 64 == 0 for size in found for each in size)


def test_a_cascade_of_another_shape_keeps_it():
    assert (48, 80) in aspect_buckets(cascade([12, 20], [48, 80]))
    wide = aspect_buckets(cascade([8, 64], [16, 128]))  # wider than any bucket
    assert (16, 128) in wide and (32, 64) in wide


@pytest.mark.parametrize("sizes", [([8, 8], [16, 24]), ([8, 8], [12, 12])])
def test_stages_that_do_not_grow_alike_have_no_buckets(sizes):
    with pytest.raises(UserError, match="whole factors"):
        aspect_buckets(cascade(*sizes))


def test_nearest_is_by_factor():
    sizes = [(80, 48), (64, 64), (48, 80)]
    assert nearest(sizes, 1.2) == (64, 64)
    assert nearest(sizes, 1.35) == (48, 80)  # 1.35 is a factor 1.23 from 5:3, 1.35 from 1:1
    assert nearest(sizes, 1 / 1.35) == (80, 48)
    assert nearest(sizes, 100) == (48, 80)


@pytest.mark.parametrize("folder", [".", "testing", "imagen_64_256_1024"])
def test_a_side_that_does_not_fit_is_answered_with_the_nearest_that_do(folder):
    config = read_parameters(PARAMETERS / folder).imagen
    own = max(config.image_sizes[-1])
    for side in range(1, own + 70):
        try:
            assert max(with_side(config, side).image_sizes[-1]) == side
        except UserError as error:
            near = [int(word) for word in re.findall(r"\d+", str(error).rpartition("use ")[2])]
            fitting = [max(with_side(config, n).image_sizes[-1]) for n in near]
            assert fitting == near  # they work, and nothing between them does
            between = (
                set(range(near[0] + 1, near[-1])) if len(near) == 2 else set(range(1, near[0]))
            )
            assert side in between


def test_a_side_of_oblong_images_is_the_longer_one():
    config = cascade((8, 12), (16, 24))
    assert with_side(config, 48).image_sizes == ((16, 24), (32, 48))
    with pytest.raises(UserError, match="multiple of 12.*use 24 or 36"):
        with_side(config, 28)
