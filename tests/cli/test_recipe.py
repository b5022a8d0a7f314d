"""Flags > --PARAMETERS > recipe > preset, on data of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minimagen import device
from minimagen.cli.train import parse_flags, settings_of

OWN = ["--DATASET", "images", "--IMG_SIDE_LEN", "32"]


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    lines = []
    for i in range(6):
        Image.fromarray(np.full((32, 32, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"gray {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def table(*flags: str) -> dict[str, tuple[str, str]]:
    """Return name -> (value, source) of every setting."""
    settings = settings_of(parse_flags(flags))
    lines = settings.table(settings.parameters()).splitlines()
    parts = [line.partition(" = ") for line in lines]
    return {name: tuple(rest.rstrip(")").rsplit("  (", 1)) for name, _, rest in parts}  # type: ignore[misc]


def test_own_images_get_the_recipe_of_their_number_and_side(
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = table(*OWN, "--MINUTES", "5")
    assert values["imagen.image_sizes"][0] == "[[32, 32]]"
    assert values["imagen.stages.0.unet.dropout"] == ("0.1", "recipe")
    assert "6 images are few" in capsys.readouterr().out


def test_on_a_gpu_batches_are_large_unless_a_flag_says_how_large(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "resolve_device", lambda name: torch.device("cuda"))
    values = table(*OWN, "--MINUTES", "5")
    assert values["training.learners.0.batch_size"] == ("256", "recipe")
    assert values["imagen.stages.0.unet.dim"] == ("64", "recipe")
    assert "batches of 256" in capsys.readouterr().out
    own = table(*OWN, "--MINUTES", "5", "--BATCH_SIZE", "16")
    assert "256" not in own["training.learners.0.batch_size"]
    assert own["training.batch_size"][0] == "16"
    assert "batches of" not in capsys.readouterr().out


def test_without_a_length_the_recipe_takes_twenty_minutes() -> None:
    assert table(*OWN)["training.minutes"] == ("20.0", "recipe")
    assert table(*OWN, "--STEPS", "7")["training.minutes"][0] == "None"
    assert table(*OWN, "--STEPS", "7")["training.steps"] == ("7", "--STEPS")


def test_a_flag_beats_the_recipe() -> None:
    values = table(*OWN, "--TIMESTEPS", "3", "--GUIDANCE_SCALE", "5")
    assert values["imagen.stages.0.sampling.timesteps"] == ("3", "--TIMESTEPS")
    assert values["imagen.stages.0.sampling.guidance_scale"] == ("5.0", "--GUIDANCE_SCALE")


@pytest.mark.parametrize(
    "flags", [[*OWN, "--PARAMETERS", "testing"], [*OWN, "--TESTING"], ["--DATASET", "shapes"], []]
)
def test_a_recipe_acts_only_on_own_data_without_other_parameters(flags: list[str]) -> None:
    assert not any(source == "recipe" for _, source in table(*flags).values())
