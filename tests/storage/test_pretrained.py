"""Weights load where their header's configuration fits, also headers of earlier versions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from minimagen.config import ImagenConfig
from minimagen.errors import UserError
from minimagen.storage.checkpoint import save_weights
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.pretrained import Identity, find_weights, first_difference, load_stage
from tests.conftest import HashTextEncoder

UNET = {"dim": 8, "dim_mults": (1, 2), "attn_heads": 2, "attn_head_dim": 4}
CONFIG = ImagenConfig(
    image_sizes=[8, 16],
    text_encoder_name="hash",
    stages=[{"unet": UNET}, {"kind": "distilled", "steps": 2, "unet": UNET}],
)
Header = dict[str, Any]


def identity(i: int = 1, **encoder: str) -> Identity:
    text_encoder = HashTextEncoder()
    for name, value in ({"fingerprint": "1a2b"} | encoder).items():
        setattr(text_encoder, name, value)
    return Identity.of_stage(CONFIG, i, text_encoder)


def header(i: int = 1) -> Header:
    """What is written today, as JSON gives it back."""
    values: Header = json.loads(json.dumps(identity(i).model_dump(mode="json")))
    return values


def earlier_header(i: int = 1) -> Header:
    """What versions without kinds and fingerprints wrote: the stage's keys beside the others."""
    values = header(i)
    del values["text_encoder_fingerprint"]
    stage = values.pop("stage")
    del stage["kind"], stage["sampling"]
    stage["distilled_steps"] = stage.pop("steps", None)
    return values | stage


@pytest.fixture
def load(tmp_path: Path):
    """Load weights with a header into a stage; return whether it has them afterwards."""

    def run(written: Header, wanted: Identity, tensors: dict[str, Any] | None = None) -> bool:
        trained, fresh = nn.Linear(3, 2), nn.Linear(3, 2)
        path = tmp_path / "state_dicts" / "unet_1.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_weights(path, tensors or trained.state_dict(), {"stage": written, "step": 1})
        load_stage(fresh, path, wanted)
        return bool(fresh.weight.equal(trained.weight) and fresh.bias.equal(trained.bias))

    return run


def refusal(load: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        load(*arguments)
    message = str(error.value)
    assert "\n" not in message and "unet_1.safetensors" in message
    return message


@pytest.mark.parametrize("i", [0, 1])
def test_weights_load_that_were_trained_with_the_same_configuration(load: Any, i: int) -> None:
    assert load(header(i), identity(i))


@pytest.mark.parametrize("i", [0, 1])
@pytest.mark.parametrize("form", [header, earlier_header])
def test_headers_without_fields_that_came_later_mean_their_defaults(
    load: Any, form: Any, i: int
) -> None:
    written = form(i)
    stage = written.get("stage", written)
    for fields, name in (
        (stage, "crop"),
        (stage["loss"], "time_shift"),
        (stage["unet"], "dropout"),
    ):
        del fields[name]
    assert load(written, identity(i))
    stage["loss"]["time_shift"] = 2.0
    assert "stage.loss.time_shift was 2.0, is 1.0" in refusal(load, written, identity(i))


@pytest.mark.parametrize("form", [header, earlier_header])
def test_how_a_stage_samples_does_not_matter(load: Any, form: Any) -> None:
    wanted = identity(0)
    stage = wanted.stage.replace(sampling={"timesteps": 99, "guidance_scale": 7.0})
    assert load(form(0), wanted.replace(stage=stage))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("stage", "unet", "dim"), 16, "stage.unet.dim was 16, is 8"),
        (("stage", "prediction"), "x_0", "stage.prediction was 'x_0', is 'v'"),
        (("stage", "steps"), 4, "stage.steps was 4, is 2"),
        (("image_sizes",), [[8, 8], [32, 32]], "image_sizes was [[8, 8], [32, 32]]"),
    ],
)
def test_another_configuration_is_refused_and_the_difference_named(
    load: Any, path: tuple[str, ...], value: Any, words: str
) -> None:
    written = header()
    if path[-1] == "steps":
        written["stage"]["sampling"]["timesteps"] = value
    place = written
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert words in refusal(load, written, identity())


@pytest.mark.parametrize("form", [header, earlier_header])
def test_a_stage_that_is_not_distilled_does_not_load_distilled_weights(
    load: Any, form: Any
) -> None:
    wanted = identity(1)
    many = wanted.replace(stage={"unet": UNET})
    assert "stage.kind was 'distilled', is 'diffusion'" in refusal(load, form(1), many)


def test_weights_of_another_text_encoder_are_refused_whatever_its_name(load: Any) -> None:
    other = identity(fingerprint="another", name="hash")
    message = refusal(load, header(), other)
    assert "the text encoder, or its `max_num_words`, was another one" in message
    assert load(header(), identity(name="the same one under another name"))


def test_encoders_without_a_fingerprint_are_compared_by_name(load: Any) -> None:
    assert load(earlier_header(), identity(fingerprint="another"))
    message = refusal(load, earlier_header(), identity(name="t5_large"))
    assert "text_encoder_name was 'hash', is 't5_large'" in message


@pytest.mark.parametrize("written", [None, [], "unet", {}, {"unet": {"dim": "wide"}}, {"stage": 3}])
def test_headers_that_are_none_are_refused_in_one_line(load: Any, written: Any) -> None:
    assert refusal(load, written, identity())


def test_weights_that_do_not_fit_their_own_header_are_refused(load: Any) -> None:
    message = refusal(load, header(), identity(), {"weight": torch.zeros(7, 7)})
    assert "does not hold the weights of this network" in message


def test_missing_weights_are_named_with_the_command_that_trains_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trained weights unet_1.*`resume` .*mine"):
        find_weights(TrainingDirectory(tmp_path / "mine"), "unet_1")


@pytest.mark.parametrize("choice", ["finale", "-1", "1.5", "", True, 2.0])
def test_which_weights_are_meant_is_checked(tmp_path: Path, choice: Any) -> None:
    with pytest.raises(UserError, match=r"`weights` must be final, best or the step.*given"):
        find_weights(TrainingDirectory(tmp_path / "mine"), "unet_1", choice)


def test_the_first_difference_is_named_by_its_path() -> None:
    one = {"a": 1, "b": {"c": [1, 2], "d": None}}
    assert first_difference(one, one) == ""
    assert first_difference(one, one | {"a": 2}) == "a was 1, is 2"
    assert first_difference(one, one | {"b": {"c": [1], "d": None}}) == "b.c was [1, 2], is [1]"
    assert first_difference(one, {"a": 1, "b": {"c": [1, 2]}}) == ""  # missing is None
    assert first_difference(one, {"a": 1, "b": 3}).startswith("b was {")
    assert first_difference(1, 2) == "it was 1, is 2"
