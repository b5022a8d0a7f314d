import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minimagen.text.names import T5_MINI
from minimagen.text.pretrained import PretrainedEncoder
from tools import pretrain_t5_mini
from tools.make_text_baselines import write_baseline
from tools.pretrain_t5_mini import (
    VOCABULARY,
    corrupt_spans,
    encoder_config,
    hide_wording,
    split_randomly,
)


def restored(inputs: list[int], targets: list[int]) -> list[int]:
    """Put the hidden spans back where their sentinels stand."""
    first_sentinel = VOCABULARY - pretrain_t5_mini.SENTINELS
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token >= first_sentinel:
            spans[token] = current = []
        else:
            current.append(token)
    return [t for token in inputs for t in spans.get(token, [token])]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(3, 1000), min_size=2, max_size=80), st.integers(0, 10**6))
def test_hidden_spans_and_what_is_left_make_the_document(tokens: list[int], seed: int):
    inputs, targets = corrupt_spans(tokens, random.Random(seed))
    assert restored(inputs, targets) == tokens
    sentinels = [token for token in targets if token > 1000]
    assert sentinels == list(range(VOCABULARY - 1, VOCABULARY - 1 - len(sentinels), -1))
    hidden = len(targets) - len(sentinels)
    assert hidden == min(max(round(len(tokens) * 0.25), 1), len(tokens) - 1)


@given(st.lists(st.lists(st.integers(3, 1000), min_size=1), min_size=2, max_size=4), st.integers())
def test_a_hidden_wording_and_the_others_make_the_document(wordings: list[list[int]], seed: int):
    inputs, targets = hide_wording(wordings, random.Random(seed))
    assert restored(inputs, targets) == sum(wordings, [])
    assert targets[1:] in wordings


@given(st.integers(1, 60), st.data())
def test_random_parts_are_positive_and_sum_up(total: int, data: st.DataObject):
    parts = data.draw(st.integers(1, total))
    lengths = split_randomly(total, parts, random.Random(0))
    assert len(lengths) == parts and sum(lengths) == total and min(lengths) >= 1


def test_the_bundled_encoder_is_the_one_that_the_tool_makes():
    shipped = json.loads((T5_MINI / "config.json").read_text())
    made = encoder_config().to_dict()
    for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
        assert shipped[name] == made[name]


@pytest.mark.parametrize("layers", [0, 3])
def test_only_a_bag_of_words_ignores_what_stands_around_a_token(tmp_path: Path, layers: int):
    write_baseline(tmp_path, seed=0, num_layers=layers)
    encoder = PretrainedEncoder(str(tmp_path))
    one, two = encoder.encode(["a red star", "blue star on a red ring"])
    (star, other), (red, other_red) = (one[2], two[1]), (one[1], two[4])
    assert (torch.equal(star, other) and torch.equal(red, other_red)) == (layers == 0)
    assert one.square().mean(-1).sqrt().sub(1).abs().max() < 0.05
