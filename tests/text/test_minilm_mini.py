"""The bundled minilm_mini: small, offline, and its embeddings say what captions mean."""

import json

import torch
from safetensors import safe_open

from minimagen.data.words import count_words, report_words
from minimagen.text.build import build
from minimagen.text.names import MINILM_MINI


def test_it_is_small_and_its_matrices_have_8_bits() -> None:
    assert sum(file.stat().st_size for file in MINILM_MINI.iterdir()) <= 8_000_000
    assert json.loads((MINILM_MINI / "config.json").read_text())["model_type"] == "bert"
    with safe_open(MINILM_MINI / "model.safetensors", "pt") as weights:
        matrices = [
            key for key in weights.keys() if weights.get_slice(key).get_dtype() == "F8_E4M3"
        ]
        assert len(matrices) == 3 + 2 * 6
    assert "Apache License" in (MINILM_MINI / "LICENSE").read_text()


def test_a_caption_is_nearest_to_one_that_means_the_same_in_other_words() -> None:
    encoder = build("minilm_mini", 32)
    assert encoder.embed_dim == 384
    pairs = [
        ("a man riding a horse on the beach", "someone on horseback near the ocean"),
        ("a bowl of soup on a table", "a hot meal is served in a dish"),
        ("a kitten asleep on a couch", "a small cat napping on the sofa"),
        ("an airplane flies over a city", "a jet in the sky above buildings"),
    ]
    one, other = (
        torch.stack([embeds.mean(0) for embeds in encoder.encode(side)])
        for side in zip(*pairs, strict=True)
    )
    center = torch.cat([one, other]).mean(0)
    cosines = torch.cosine_similarity((one - center)[:, None], (other - center)[None], dim=2)
    assert cosines.argmax(1).tolist() == [0, 1, 2, 3]


def test_it_knows_words_that_t5_mini_has_to_spell() -> None:
    words = count_words(["smiling face with sunglasses, a trolleybus, passport control"])
    mini, t5 = (report_words(build(n, 32), words) for n in ("minilm_mini", "t5_mini"))
    assert mini.known_words == 1.0 > t5.known_words
