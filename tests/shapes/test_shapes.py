"""The embedded data: what the attributes say is what is drawn, and the splits hold."""

import random
import subprocess
import sys
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from minimagen.errors import UserError
from minimagen.shapes import dataset, objects, scenes
from minimagen.shapes.dataset import ShapesDataset
from minimagen.shapes.drawing import COLORS, PATTERNS, SHAPES, second_shade, shape_mask

LEVELS = pytest.mark.parametrize("level", dataset.LEVELS)


def _nearest_color(pixel: np.ndarray) -> str:
    """Return the palette's name for a pixel."""
    return min(COLORS, key=lambda name: float(np.abs(pixel - np.array(COLORS[name])).sum()))


@LEVELS
def test_an_image_depends_only_on_seed_split_and_index(level: str) -> None:
    first, second = (ShapesDataset("train", level, seed=3) for _ in range(2))
    for index in (5, 0, 10**9):  # any order, beyond the epoch too
        assert first[index].caption == second[index].caption
        assert np.array_equal(first[index].image, second[index].image)
    other = ShapesDataset("train", level, seed=4)
    assert any(other[i].caption != first[i].caption for i in range(3))


def test_the_stream_is_the_same_in_another_process() -> None:
    code = (
        "from minimagen.shapes.dataset import ShapesDataset as D;"
        "s = [D('heldout', level)[7] for level in ('simple', 'scenes')];"
        "print([(x.caption, int(x.image.sum())) for x in s])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(runs) == 1


def test_the_splits_of_the_simple_level_are_disjoint_cover_everything_and_have_their_shares() -> (
    None
):
    parts = {split: set(objects.combinations(split)) for split in dataset.SPLITS}
    everything = {c for c in product(COLORS, SHAPES, COLORS) if c[0] != c[2]}
    assert set.union(*parts.values()) == everything
    assert sum(map(len, parts.values())) == len(everything)
    for split, share in {"train": 0.8, "tune": 0.1, "heldout": 0.1}.items():
        assert abs(len(parts[split]) / len(everything) - share) < 0.02


def test_the_assignment_to_splits_never_changes() -> None:
    """Shipped weights were trained on today's train split: another hash would leak heldout."""
    combos = [("red", "star", "blue"), ("green", "ring", "pink"), ("black", "moon", "white")]
    assert [objects.split_of(*c) for c in combos] == ["train", "train", "train"]
    sizes = {split: len(objects.combinations(split)) for split in dataset.SPLITS}
    assert sizes == {"train": 574, "tune": 79, "heldout": 67}


def test_every_value_and_every_pair_of_values_is_in_the_training_split() -> None:
    train = objects.combinations("train")
    for axes in combinations(range(3), 2):
        pairs = Counter(tuple(c[a] for a in axes) for c in train)
        every = {tuple(c[a] for a in axes) for s in dataset.SPLITS for c in objects.combinations(s)}
        assert set(pairs) == every
        assert min(pairs.values()) >= 3


@LEVELS
@pytest.mark.parametrize("split", dataset.SPLITS)
def test_samples_come_from_their_split_only(level: str, split: str) -> None:
    dataset = ShapesDataset(split, level, size=8)
    for index in range(200):
        a = dataset[index].attributes
        if level == "scenes":
            assert scenes.split_of(a) == split
            assert set(a) == {"kind", *scenes.KINDS[a["kind"]]}
        else:
            assert objects.split_of(a["color"], a["shape"], a["background"]) == split
            assert tuple(a) == objects.ATTRIBUTES


@LEVELS
def test_captions_say_every_attribute_and_stay_short(level: str) -> None:
    dataset = ShapesDataset("train", level, size=8)
    stems = {"striped": "strip", "checkered": "check", "dotted": "dot", "plain": ""}
    for index in range(500):
        sample = dataset[index]
        caption, a = sample.caption.lower(), sample.attributes
        said = ["color", "background", "shape", "other_shape", "other_color", "count", "glyph"]
        assert all(a[name].lower() in caption for name in said if name in a)
        assert stems[a.get("pattern", "plain")] in caption
        if "size" in a:
            assert any(word in caption.split() for word in objects._SIZE_WORDS[a["size"]])
        assert len(caption.split()) <= 16
        assert "{" not in caption and " a orange" not in caption


def test_wordings_vary() -> None:
    a = dict(shape="star", color="red", size="large", background="blue", pattern="striped")
    rng = random.Random(0)
    assert len({objects.caption_for(a, rng) for _ in range(200)}) > 50


def test_a_relation_told_from_either_side_names_the_same_image() -> None:
    a = dict(
        kind="relation",
        relation="left of",
        shape="star",
        color="red",
        other_shape="ring",
        other_color="blue",
        background="white",
    )
    rng = random.Random(0)
    said = {scenes.caption_for(a, rng).lower().rstrip(".") for _ in range(300)}
    assert "a red star left of a blue ring on a white background" in said
    assert "a blue ring right of a red star on a white background" in said
    assert not any("ring left of" in caption for caption in said)


def test_the_painted_colours_are_the_named_ones() -> None:
    dataset = ShapesDataset("heldout")
    for index in range(100):
        sample = dataset[index]
        image, a = sample.image.astype(int), sample.attributes
        allowed = {COLORS[a["background"]]}
        allowed |= {second_shade(a["background"])} if a["pattern"] != "plain" else set()
        border = np.concatenate([image[0], image[-1]])
        # A tilted corner may touch the border; the rest of it lies between the two shades.
        low, high = np.min(list(allowed), axis=0), np.max(list(allowed), axis=0)
        assert ((border >= low - 1) & (border <= high + 1)).all(axis=1).mean() > 0.9
        counts = Counter(map(tuple, image.reshape(-1, 3).tolist()))
        assert counts[COLORS[a["color"]]] > 0.04 * image.shape[0] * image.shape[1]


def test_large_objects_cover_more_than_twice_what_small_ones_do() -> None:
    for shape in SHAPES:
        large, small = (
            np.asarray(shape_mask(shape, 64, (0.5, 0.5), extent)).sum()
            for extent in objects.SIZES.values()
        )
        assert large > 2 * small


def test_shapes_differ_at_sixteen_pixels_at_any_angle() -> None:
    """The nearest untilted small shape is the right one, whatever the jitter does."""
    templates = {s: np.asarray(shape_mask(s, 16, (0.5, 0.5), 0.45), float) for s in SHAPES}
    for shape, angle in product(SHAPES, (-12, 12)):
        mask = np.asarray(shape_mask(shape, 16, (0.5, 0.5), 0.45, angle), float)
        assert min(SHAPES, key=lambda s: float(np.abs(mask - templates[s]).sum())) == shape


def test_patterns_stay_visible_at_sixteen_pixels() -> None:
    for color, pattern in product(COLORS, PATTERNS):
        a = dict(shape="star", color="red", size="small", background=color, pattern=pattern)
        corner = objects.draw(a, random.Random(0), 16)[:4].astype(int)
        spread = int(np.ptp(corner, axis=(0, 1)).max())
        assert spread == 0 if pattern == "plain" else spread >= 35


def test_second_shades_are_no_other_colour_of_the_palette() -> None:
    shades = {name: np.array(second_shade(name)) for name in COLORS}
    for name, shade in shades.items():
        others = [np.abs(shade - np.array(COLORS[c])).sum() for c in COLORS if c != name]
        assert min(others) >= 70


def test_an_epoch_ends_although_the_stream_does_not() -> None:
    dataset = ShapesDataset(size=8, epoch_size=7)
    assert len(dataset) == len(list(dataset)) == 7
    assert dataset[7].caption
    with pytest.raises(IndexError):
        dataset[-1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "hedlout"}, "did you mean 'heldout'"),
        ({"level": "hard"}, "simple, scenes"),
        ({"size": 0}, "size >= 8"),
        ({"epoch_size": 0}, "epoch_size >= 1"),
    ],
)
def test_wrong_options_are_explained(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ShapesDataset(**options)


def test_importing_the_data_does_not_import_torch() -> None:
    code = "import sys, minimagen.data.open, minimagen.shapes.export; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
