"""The words of captions that an encoder knows: counted, shared out, and warned of."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minimagen.__main__ import main
from minimagen.config.recipes import TEXT_ENCODER
from minimagen.data.open import load_dataset
from minimagen.data.words import count_words, report_words, words_of
from minimagen.text.build import build
from minimagen.text.encoding import TokenReport


class Speller:
    """An encoder that spells every word but those it knows; a caption ends with one token."""

    name = "speller"

    def __init__(self, *known: str) -> None:
        self.known = known

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        lengths = [sum(1 if w in self.known else len(w) for w in c.split()) for c in captions]
        return [TokenReport(1 + n, "東" in c) for n, c in zip(lengths, captions, strict=True)]


CAPTIONS = ["A star", "a STAR, a grinning cat", "ox-cart no. 7", "東"]


def test_words_are_runs_of_letters_in_lower_case() -> None:
    words = {"a": 3, "star": 2, "grinning": 1, "cat": 1, "ox": 1, "cart": 1, "no": 1, "東": 1}
    assert count_words(CAPTIONS) == words


def test_a_word_of_more_than_two_pieces_is_unknown_and_the_end_is_no_piece() -> None:
    encoder: Any = Speller("star")
    report = report_words(encoder, count_words(CAPTIONS))
    assert set(report.unknown) == {"grinning", "cat", "cart", "東"}  # ox and no have two letters
    assert report.known_words == 4 / 8 and report.known_occurrences == 7 / 11
    assert len(list(report.lines())) == 1


def test_most_words_unknown_is_a_warning_that_says_what_to_do() -> None:
    encoder: Any = Speller("the")
    words = Counter({"the": 9, "avocado": 3, "abacus": 2, "axe": 1})
    line, warning = report_words(encoder, words).lines()
    assert "4 distinct, 25 % of them known to speller (at most 2 pieces), 60 % of all" in line
    assert line.endswith("unknown: avocado, abacus, axe")
    assert (
        warning.startswith("WARNING: most words are unknown")
        and "`text_encoder` minilm_mini" in warning
    )


def test_no_words_no_lines(text_encoder: Any) -> None:
    assert list(report_words(text_encoder, Counter()).lines()) == []
    assert list(words_of(load_dataset("shapes"), text_encoder)) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, caption in enumerate(("red", "an exasperated sphygmomanometer") * 3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(caption)
    return tmp_path


def test_data_check_prints_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (words,) = [line for line in lines if line.startswith("  words: ")]
    expected = list(words_of(load_dataset(folder), build(TEXT_ENCODER, 64)))
    assert words.strip() == expected[0]
    assert f"of them known to {TEXT_ENCODER}" in words
    assert main(["data", "check", str(folder), "--T5_NAME", "t5_mini"]) == 0
    assert "4 distinct, 50 % of them known to t5_mini" in capsys.readouterr().out


def test_nothing_is_said_of_words_that_are_learned(folder: Path) -> None:
    encoder = build("labels", 64, ("red", "an exasperated sphygmomanometer"))
    assert list(words_of(load_dataset(folder), encoder)) == []
