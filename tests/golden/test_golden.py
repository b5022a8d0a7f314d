"""Numbers and images of an earlier version (commit 8840539): a refactoring must give the same.

``testing.json`` and ``testing.png`` are what the testing preset trained and sampled. ``trained``
and ``distilled`` are training directories without logs and checkpoints; the images beside them
are ``inference.py -c "a large red star on a blue background" -n 4 --SEED 3``. All on a CPU, fp32.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minimagen import Imagen
from minimagen.cli import train
from tests.conftest import ONE_CAPTION

GOLDEN = Path(__file__).parent
FLAGS = ["--TESTING", "--DEVICE", "cpu", "--PRECISION", "fp32", *ONE_CAPTION]
CAPTIONS = ["a large red star on a blue background", "a small green heart"]


@pytest.fixture(scope="module")
def testing_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("golden") / "training_golden"
    assert train.entry([*FLAGS, "-o", str(out)]) == 0
    return out


def assert_images_are(name: str, images: list[Image.Image], tolerance: int) -> None:
    """Compare ``images`` in one row with a stored one; ``tolerance`` in 1/255."""
    row = np.concatenate([np.array(image) for image in images], 1).astype(int)
    stored = np.array(Image.open(GOLDEN / f"{name}.png")).astype(int)
    assert stored.std() > 10  # not one flat color, which any image would equal
    assert np.abs(row - stored).max() <= tolerance


def test_the_testing_preset_has_the_losses_that_it_had(testing_run: Path):
    stored = json.loads((GOLDEN / "testing.json").read_text())
    lines = (testing_run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(stored)
    for row, expected in zip(rows, stored, strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_the_testing_preset_gives_the_images_that_it_gave(testing_run: Path):
    imagen = Imagen.from_directory(testing_run)
    stages = imagen.sample_stages(CAPTIONS, imagen.samplings(), seeds=[1, 2], precision="fp32")
    images = [image.resize((32, 32), Image.Resampling.NEAREST) for s in stages for image in s]
    assert_images_are("testing", images, tolerance=2)


@pytest.mark.parametrize("name", ["trained", "distilled"])
def test_a_directory_trained_by_an_earlier_version_gives_the_same_images(name: str):
    imagen = Imagen.from_directory(GOLDEN / name)
    assert_images_are(name, imagen.sample(CAPTIONS[:1] * 4, seed=3, precision="fp32"), tolerance=1)
