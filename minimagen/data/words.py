"""Which share of the words of captions an encoder knows, and which have to be spelled."""

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, takewhile

from minimagen.data.dataset import Dataset
from minimagen.text.encoding import TextEncoder
from minimagen.text.names import TRAINED_HERE

PIECES = 2  # at most, of a word that is known
WORD = re.compile(r"[^\W\d_]+")
SHOWN = 8  # unknown words, the most frequent first
SECONDS = 1.0  # for the captions at the start of a training
BETTER = (
    "it has to spell them, which a network learns slowly: `text_encoder` minilm_mini (bundled), "
    "minilm or t5_base knows more words"
)


@dataclass(frozen=True)
class WordReport:
    """How an encoder cuts the words of captions.

    Attributes:
        encoder: its name.
        counts: how often each word occurs, in lower case.
        unknown: those of more than ``PIECES`` pieces, the most frequent first.
    """

    encoder: str
    counts: Counter[str]
    unknown: tuple[str, ...]

    @property
    def known_words(self) -> float:
        """The share of distinct words that are known, in [0, 1]."""
        return 1.0 - len(self.unknown) / max(1, len(self.counts))

    @property
    def known_occurrences(self) -> float:
        """The share of all words, as often as they occur, that are known, in [0, 1]."""
        unknown = sum(self.counts[word] for word in self.unknown)
        return 1.0 - unknown / max(1, self.counts.total())

    def lines(self) -> Iterator[str]:
        """Yield what a user should know, one line each; nothing where there are no words."""
        if not self.counts:
            return
        line = (
            f"words: {len(self.counts)} distinct, {100 * self.known_words:.0f} % of them known to "
            f"{self.encoder} (at most {PIECES} pieces), "
            f"{100 * self.known_occurrences:.0f} % of all occurrences"
        )
        more = ", ..." * (len(self.unknown) > SHOWN)
        shown = f"; unknown: {', '.join(self.unknown[:SHOWN])}{more}"
        yield line + shown * bool(self.unknown)
        if min(self.known_words, self.known_occurrences) < 0.5:
            yield f"WARNING: most words are unknown to {self.encoder}; {BETTER}"


def count_words(captions: Iterable[str]) -> Counter[str]:
    """Return how often each word, in lower case, occurs: runs of letters."""
    return Counter(word for text in captions for word in WORD.findall(text.lower()))


def report_words(encoder: TextEncoder, counts: Counter[str]) -> WordReport:
    """Return which words ``encoder`` knows: those that it cuts into at most two pieces.

    What every caption has, such as the end of the sequence, is no piece of a word.
    """
    words = [word for word, _ in counts.most_common()]
    empty, *reports = encoder.inspect(["", *words])
    cut = zip(words, reports, strict=True)
    spelled = [w for w, r in cut if r.unknown or r.tokens - empty.tokens > PIECES]
    return WordReport(encoder.name, counts, tuple(spelled))


def words_of(dataset: Dataset, encoder: TextEncoder) -> Iterator[str]:
    """Yield the lines on a data set's words: of the captions that are read within a second.

    Data that is drawn without end has the words of its generator, and an encoder that is trained on
    the data learns its words: nothing is said of them.
    """
    if dataset.endless or encoder.name in TRAINED_HERE:
        return
    until = time.monotonic() + SECONDS
    read = takewhile(lambda _: time.monotonic() < until, dataset.captions())
    yield from report_words(encoder, count_words(chain.from_iterable(read))).lines()
