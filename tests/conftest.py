"""What many tests share: a text encoder without weights, tiny networks that do something."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor, nn

from minimagen.draws import generator
from minimagen.images import Batch
from minimagen.text.encoding import TokenReport, encode_batch

# Flags: sample sheets of one caption; those of 16, the default, take most of a tiny run's time.
ONE_CAPTION = ["--SAMPLE_CAPTIONS", str(Path(__file__).parent / "caption.txt")]


class HashTextEncoder:
    """A deterministic stand-in for T5: every word has its own random vector."""

    name = fingerprint = "hash"

    def __init__(self, embed_dim: int = 12) -> None:
        self.embed_dim = embed_dim

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        return [torch.stack([self._word(word) for word in c.split()]) for c in captions]

    def to(self, device: torch.device | str) -> "HashTextEncoder":
        return self

    def inspect(self, captions: Sequence[str]) -> list[TokenReport]:
        return [TokenReport(len(caption.split()), False) for caption in captions]

    def notes(self) -> list[str]:
        return []

    def _word(self, word: str) -> Tensor:
        return torch.randn(self.embed_dim, generator=generator("word", word))


class SpyEncoder(HashTextEncoder):
    """Remembers every caption that it was asked for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def encode(self, captions: Sequence[str]) -> list[Tensor]:
        self.asked += captions
        return super().encode(captions)


def takes_long(item: pytest.Item) -> bool:
    """Whether a test is slow, or starts a browser and the page's server for its file."""
    in_browser = isinstance(item, pytest.Function) and "browser" in item.fixturenames
    return in_browser or item.get_closest_marker("slow") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: no worker starts one when the others are done."""
    slow = {item.path for item in items if takes_long(item)}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def spy_encoder() -> SpyEncoder:
    return SpyEncoder()


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the cache folders of tests are; what several tests share is made with this one."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIMAGEN_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def cache(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes to the user's cache folder, nor finds what another one left there."""
    folder = Path(mkdtemp(dir=caches))  # pytest's mktemp looks through all folders before it
    monkeypatch.setenv("MINIMAGEN_CACHE", str(folder))
    return folder


def _one_thread() -> Iterator[None]:
    """For tests of tiny tensors: with several threads they mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


one_thread = pytest.fixture(_one_thread)
one_thread_in_module = pytest.fixture(scope="module")(_one_thread)


@pytest.fixture(scope="module")
def cache_of_module(caches: Path) -> Iterator[Path]:
    """A cache folder for all tests of a module that ask for it, by a ``cache`` of their own.

    Where they train on the same captions, the first run alone loads T5, which takes seconds.
    """
    folder = Path(mkdtemp(dir=caches))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIMAGEN_CACHE", str(folder))
        yield folder


@pytest.fixture
def text_encoder() -> HashTextEncoder:
    return HashTextEncoder()


@pytest.fixture
def wake() -> Callable[[nn.Module], nn.Module]:
    """A fresh network outputs 0 whatever it sees; this gives its zero weights small values."""

    def fill(module: nn.Module) -> nn.Module:
        random = generator("wake")
        with torch.no_grad():
            for parameter in module.parameters():
                if not parameter.any():
                    values = torch.randn(parameter.shape, generator=random)
                    parameter.copy_(values / max(1, parameter[0].numel()) ** 0.5)
        return module

    return fill


@pytest.fixture
def make_batch(text_encoder: HashTextEncoder) -> Callable[..., Batch]:
    """Return ``size`` random images of side ``side`` with captions of different lengths.

    With ``low_res_side`` they have low-resolution images too, as super-resolution is given them.
    """

    def make(size: int, side: int, low_res_side: int | None = None) -> Batch:
        images = torch.randint(0, 256, (size, 3, side, side), generator=generator("images"))
        words = ("a large red star on a blue background " * 2).split()
        captions = [" ".join(words[: 1 + i % len(words)]) for i in range(size)]
        text = encode_batch(text_encoder, captions)
        sizes = [(each, each) for each in (side, low_res_side) if each]
        batch = Batch(images.to(torch.uint8), text.embeds, text.mask)
        return batch.at(sizes, full=(side, side))

    return make
