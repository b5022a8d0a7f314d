from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.pretrained_models import SD1, SD2, write_if, write_sd
from tests.cli.conftest import here, refused

__all__ = ["here", "refused"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sd1, sd2 and IF-I, IF-II; read only."""
    folder = tmp_path_factory.mktemp("models")
    write_sd(folder / "sd1", SD1)
    write_sd(folder / "sd2", SD2, pad="!")
    write_if(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
