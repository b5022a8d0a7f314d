"""A parameters directory of AssemblyAI's MinImagen keeps its shapes, the rest becomes ours."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from minimagen.cli import train
from minimagen.cli.settings import read_settings
from minimagen.errors import UserError
from minimagen.storage.directory import Parameters, read_parameters
from minimagen.storage.minimagen_parameters import (
    IMAGEN_KEYS,
    TRAINING_KEYS,
    UNET_KEYS,
)
from tests.conftest import ONE_CAPTION

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT.parent / "shared" / "data" / "minimagen_parameters"

UNET = {
    "dim": 8,
    "dim_mults": [1, 2],
    "channels": 3,
    "channels_out": None,
    "cond_dim": None,
    "text_embed_dim": 512,
    "num_resnet_blocks": [1, 2],
    "layer_attns": False,
    "layer_cross_attns": [False, True],
    "attn_heads": 2,
    "lowres_cond": False,
    "memory_efficient": True,
    "attend_at_middle": False,
}
IMAGEN = {
    "text_embed_dim": None,
    "channels": 3,
    "timesteps": 5,
    "cond_drop_prob": 0.15,
    "loss_type": "l2",
    "lowres_sample_noise_level": 0.2,
    "auto_normalize_img": True,
    "dynamic_thresholding_percentile": 0.9,
    "only_train_unet_number": None,
    "image_sizes": [8, 16],
    "text_encoder_name": "t5_mini",
}
RUN = {
    "PARAMETERS": None,
    "NUM_WORKERS": 0,
    "BATCH_SIZE": 2,
    "MAX_NUM_WORDS": 32,
    "IMG_SIDE_LEN": 128,
    "EPOCHS": 2,
    "T5_NAME": "t5_small",
    "TRAIN_VALID_FRAC": 0.5,
    "TIMESTEPS": 25,
    "OPTIM_LR": 0.0003,
    "ACCUM_ITER": 4,
    "CHCKPT_NUM": 500,
    "VALID_NUM": None,
    "RESTART_DIRECTORY": None,
    "TESTING": True,
    "timestamp": None,
}


def written(
    folder: Path,
    unets: int = 2,
    unet: dict[str, Any] | None = None,
    imagen: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
    stamp: str = "20220816_165729",
) -> Path:
    folder.mkdir(exist_ok=True)
    for n in range(unets):
        path = folder / f"unet_{n}_params_{stamp}.json"
        path.write_text(json.dumps(UNET | (unet or {}), indent=4))
    path = folder / f"imagen_params_{stamp}.json"
    path.write_text(json.dumps(IMAGEN | (imagen or {}), indent=4))
    lines = "".join(f"--{key}={value}\n" for key, value in (RUN | (run or {})).items())
    (folder / f"training_parameters_{stamp}.txt").write_text(lines)
    return folder


def read(folder: Path) -> Parameters:
    return read_parameters(folder)


def test_shapes_and_settings_are_kept(tmp_path: Path) -> None:
    imagen, training, data = read(written(tmp_path))
    assert imagen.image_sizes == ((8, 8), (16, 16))
    assert (imagen.text_encoder_name, imagen.max_num_words) == ("t5_mini", 32)
    for stage in imagen.stages:
        unet = stage.unet
        assert (unet.dim, unet.dim_mults, unet.channels, unet.cond_dim) == (8, (1, 2), 3, None)
        assert (unet.num_resnet_blocks, unet.attn_heads) == ((1, 2), 2)
        assert (unet.layer_attns, unet.layer_cross_attns) == (False, (False, True))
        assert (unet.memory_efficient, unet.attend_at_middle) == (True, False)
        assert stage.cond_drop_prob == 0.15
        assert stage.sampling.timesteps == 5
        assert stage.sampling.dynamic_thresholding_percentile == 0.9
        assert stage.prediction == stage.loss.space == "v"
        assert stage.schedule.kind == "cosine"
    assert [stage.sampling.aug_level for stage in imagen.stages] == [0.0, 0.2]
    assert (training.epochs, training.steps, training.accum_iter) == (2, None, 4)
    assert [stage.optim_lr for stage in training.learners] == [0.0003, 0.0003]
    assert (data.train_valid_frac, data.valid_num) == (0.5, 512)


def test_micro_batches_become_optimizer_steps(tmp_path: Path) -> None:
    training = read(written(tmp_path, run={"BATCH_SIZE": 3, "ACCUM_ITER": 4})).training
    assert (training.batch_size, training.chckpt_num) == (12, 125)


def test_what_changes_and_what_is_ignored_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read(written(tmp_path))
    message = caplog.messages[0]
    assert len(caplog.messages) == 1
    assert "v-prediction" in message and "cosine" in message
    tables = {"unet": UNET_KEYS, "imagen": IMAGEN_KEYS, "training": TRAINING_KEYS}
    for file, table in tables.items():
        listed = re.search(rf"\b{file}: ([\w, ]+)", message.split("ignored:")[1])
        assert listed is not None
        assert listed[1].split(", ") == [key for key, place in table.items() if place is None]


def test_unets_are_ordered_by_number(tmp_path: Path) -> None:
    folder = written(tmp_path, unets=11, imagen={"image_sizes": [4 * n for n in range(1, 12)]})
    for n in range(11):
        path = folder / f"unet_{n}_params_20220816_165729.json"
        path.write_text(json.dumps(UNET | {"dim": 8 * (n + 1)}))
    dims = [stage.unet.dim for stage in read(folder).imagen.stages]
    assert dims == [8 * (n + 1) for n in range(11)]


def test_a_missing_unet_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, unets=3)
    (folder / "unet_1_params_20220816_165729.json").unlink()
    with pytest.raises(UserError, match=r"no unet_1_params"):
        read(folder)


def test_of_several_stamps_the_first_is_read(tmp_path: Path) -> None:
    written(tmp_path, unet={"dim": 16}, imagen={"timesteps": 7}, stamp="20220816_165729")
    written(tmp_path, unet={"dim": 32}, imagen={"timesteps": 9}, stamp="20230101_000000")
    imagen = read(tmp_path).imagen
    assert len(imagen.stages) == 2
    assert (imagen.stages[1].unet.dim, imagen.stages[1].sampling.timesteps) == (16, 7)


def test_null_means_the_default(tmp_path: Path) -> None:
    nothing = {"OPTIM_LR": None, "EPOCHS": None, "BATCH_SIZE": None, "ACCUM_ITER": None}
    folder = written(tmp_path, imagen={"dynamic_thresholding_percentile": None}, run=nothing)
    imagen, training, _ = read(folder)
    assert imagen.stages[0].sampling.dynamic_thresholding_percentile == 0.995
    assert (training.epochs, training.batch_size, training.accum_iter) == (5, 2, 1)
    assert training.learners[0].optim_lr == 1e-4


def test_the_run_file_may_be_missing(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "training_parameters_20220816_165729.txt").unlink()
    assert read(folder).training.epochs == 5


def test_settings_may_differ_between_unets(tmp_path: Path) -> None:
    imagen = read(written(tmp_path, imagen={"timesteps": [30, 10]})).imagen
    assert [stage.sampling.timesteps for stage in imagen.stages] == [30, 10]
    with pytest.raises(UserError, match="timesteps has 3 entries for 2 U-Nets"):
        read(written(tmp_path, imagen={"timesteps": [3, 2, 1]}))


def test_a_single_unet_with_a_bare_size(tmp_path: Path) -> None:
    assert read(written(tmp_path, unets=1, imagen={"image_sizes": 8})).imagen.image_sizes == (
        (8, 8),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet": {"dim_mult": [1]}}, r"unet_0.*unknown key 'dim_mult'; did you mean 'dim_mults'"),
        ({"imagen": {"image_size": 4}}, r"imagen_params.*'image_size'.*'image_sizes'"),
        ({"run": {"BATCHSIZE": 4}}, r"training_parameters.*'BATCHSIZE'.*'BATCH_SIZE'"),
        ({"run": {"BATCH_SIZE": 0}}, r"batch_size.*given 0"),
        ({"imagen": {"image_sizes": [9, 18]}}, r"not divisible by 4"),
        ({"imagen": {"dynamic_thresholding_percentile": 95}}, r"percentile.*given 95"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(written(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_line_that_is_not_a_setting_is_named(tmp_path: Path) -> None:
    (written(tmp_path) / "training_parameters_20220816_165729.txt").write_text("--EPOCHS=2\nhm\n")
    with pytest.raises(UserError, match="line 2: 'hm'"):
        read(tmp_path)


def test_the_documents_table_is_the_mapping() -> None:
    text = (ROOT / "docs" / "minimagen_compatibility.md").read_text("utf-8")
    rows = re.findall(r"^\| (unet|imagen|training) \| `(\w+)` \| (-|`[\w.]+`) \|", text, re.M)
    documented = {(file, key): None if here == "-" else here.strip("`") for file, key, here in rows}
    tables = {"unet": UNET_KEYS, "imagen": IMAGEN_KEYS, "training": TRAINING_KEYS}
    assert documented == {(f, key): here for f, t in tables.items() for key, here in t.items()}
    assert len(documented) == len(rows)


def test_flags_win_over_the_directory(tmp_path: Path) -> None:
    written(tmp_path, imagen={"text_encoder_name": "t5_small"})
    argv = ["-p", str(tmp_path), "-t5", "t5_mini", "-b", "8", "-t", "3", "-s", "32", "-e", "1"]
    arguments = train.parse_flags(argv)
    imagen, training, _ = train.settings_of(arguments).parameters()
    assert imagen.text_encoder_name == "t5_mini"
    assert imagen.image_sizes == ((16, 16), (32, 32))
    assert {stage.sampling.timesteps for stage in imagen.stages} == {3}
    assert (training.batch_size, training.epochs) == (8, 1)


def trained(argv: list[str], where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(where)
    assert train.entry([*argv, "--DEVICE", "cpu", "--OUTPUT", "out", *ONE_CAPTION]) == 0
    kept = {path.name for path in (where / "out" / "state_dicts").iterdir()}
    assert {"unet_0.safetensors", "unet_1.safetensors"} <= kept


def test_training_from_it_ends_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "theirs")
    argv = ["--PARAMETERS", str(folder), "--TESTING", "--STEPS", "1", "--VALID_NUM", "2"]
    trained(argv, tmp_path, monkeypatch)


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason=f"the example directory {EXAMPLE} is not here")
def test_the_directory_that_minimagen_wrote_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["-p", str(EXAMPLE), "-t5", "t5_mini", "--TESTING", "--STEPS", "1"]
    trained([*argv, "--TIMESTEPS", "2", "--VALID_NUM", "2"], tmp_path, monkeypatch)
    imagen = read_settings(EXAMPLE, testing=False).parameters().imagen
    assert imagen.image_sizes == ((64, 64), (128, 128))
    assert imagen.text_encoder_name == "t5_small"
