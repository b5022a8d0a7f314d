import random
import re

import pytest

from minimagen.shapes import dataset, objects, scenes
from minimagen.shapes.drawing import COLORS, SHAPES
from minimagen.shapes.wording import plural
from tools import caption_corpus

COLOR = "|".join(COLORS)
OBJECT = re.compile(rf"\b({COLOR}) ({'|'.join(SHAPES)})\b|\b({'|'.join(SHAPES)}) in ({COLOR})\b")


def combination_in(caption: str) -> tuple[str, str, str] | None:
    """Read (color, shape, background) out of the caption of one shape."""
    caption = caption.lower()
    found = OBJECT.findall(caption)
    colors = re.findall(rf"\b(?:{COLOR})\b", caption)
    if len(found) != 1 or len(colors) != 2:
        return None
    color, shape, other_shape, other_color = found[0]
    color, shape = color or other_color, shape or other_shape
    colors.remove(color)
    return color, shape, colors[0]


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_the_reader_of_this_test_understands_shape_captions(split: str):
    rng = random.Random(split)
    for _ in range(300):
        attributes = objects.attributes_for(split, rng)
        truth = tuple(attributes[name] for name in ("color", "shape", "background"))
        assert combination_in(objects.caption_for(attributes, rng)) == truth


def test_no_document_shows_a_combination_of_another_split():
    rng = random.Random(0)
    documents = [caption_corpus.document(rng) for _ in range(8000)]
    combinations = {combination_in(text) for document in documents for text in document} - {None}
    assert len(combinations) > 300
    assert {objects.split_of(*combination) for combination in combinations if combination} == {
        "train"
    }
    text = "\n".join(text for document in documents for text in document).lower()
    for count in scenes.COUNTS:
        for color in COLORS:
            for shape in SHAPES:
                attributes = dict(kind="count", count=count, shape=shape, color=color)
                if scenes.split_of(attributes) != "train":
                    assert f"{count} {color} {plural(shape)}" not in text
                    assert f"{count} {plural(shape)} in {color}" not in text


def test_the_embedded_data_is_asked_for_its_train_split_only(monkeypatch: pytest.MonkeyPatch):
    asked = []
    for level in (objects, scenes):
        draw = level.attributes_for
        monkeypatch.setattr(
            level,
            "attributes_for",
            lambda split, rng, draw=draw: asked.append(split) or draw(split, rng),
        )
    rng = random.Random(1)
    for _ in range(300):
        caption_corpus.document(rng)
    assert len(asked) > 100 and set(asked) == {"train"}


def test_words_of_shapes_come_from_the_embedded_data_alone():
    lists = (getattr(caption_corpus, name) for name in dir(caption_corpus) if name.isupper())
    words = {word for each in lists if isinstance(each, list) for word in each}
    assert len(words) > 500
    assert not words & {*SHAPES, *(plural(shape) for shape in SHAPES)}
