"""Decoded images in blocks of memory."""

import numpy as np
import pytest

from minimagen.data.images.cache import PixelCache, Pixels

SIDE = 8
COLORED = 3 * SIDE**2  # bytes


def image(i: int) -> np.ndarray:
    """Noise; every third image is gray."""
    random = np.random.default_rng(i)
    channels = 1 if i % 3 == 0 else 3
    made = random.integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
    return np.broadcast_to(made, (SIDE, SIDE, 3)).copy()


def filled(count: int, max_bytes: int) -> PixelCache:
    cache = PixelCache((SIDE, SIDE), count, max_bytes)
    for i in range(count):
        cache.put(i, Pixels(image(i), enlarged=i % 2 == 0))
    return cache


def test_images_come_back_as_they_were_put_in_gray_ones_with_three_channels() -> None:
    cache = filled(9, 10**6)
    for i in range(9):
        found = cache.get(i)
        assert found is not None and found.enlarged == (i % 2 == 0)
        assert np.array_equal(found.image, image(i)) and found.image.flags.writeable
    assert cache.get(9) is None


@pytest.mark.parametrize(("thirds", "kept"), [(0, 0), (1, 1), (4, 2), (7, 3), (8, 4), (15, 7)])
def test_gray_images_take_a_third_of_the_bytes(thirds: int, kept: int) -> None:
    """In the order gray, colored, colored, gray ...: 1, 4, 7, 8, 11, 14, 15 thirds."""
    assert len(filled(9, thirds * COLORED // 3)) == kept


def test_after_the_last_place_for_a_colored_image_a_gray_one_may_fit() -> None:
    cache = filled(4, 7 * COLORED // 3 + COLORED // 3 - 1)  # one byte too few for the last
    assert len(cache) == 3
    cache = filled(4, 5 * COLORED // 3)
    assert [cache.get(i) is not None for i in range(4)] == [True, True, False, True]


def test_gray_images_lie_in_one_block_and_colored_ones_in_another() -> None:
    cache = filled(9, 10**6)
    gray, colored = (cache._blocks[channels] for channels in (1, 3))
    assert gray.shape == (9, SIDE, SIDE, 1) and colored.shape == (9, SIDE, SIDE, 3)
    found = cache.get(1)
    assert found is not None and found.image.base is colored


def test_one_pixel_of_another_color_makes_an_image_colored() -> None:
    almost = image(0)
    almost[3, 3, 2] ^= 1
    cache = PixelCache((SIDE, SIDE), 1, 10**6)
    cache.put(0, Pixels(almost, enlarged=False))
    found = cache.get(0)
    assert found is not None and np.array_equal(found.image, almost)
