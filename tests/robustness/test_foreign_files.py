"""Damage every kind of file that may come from outside, many times, and read it.

Whatever is in such a file, it is read, or refused in one line; anything else (a traceback, a file
that a planted pickle leaves behind, a crash of the process) is a fault. The damage is a function of
the kind and of the number of inputs, so a fault comes again.
"""

import contextlib
import io
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from benchmarks.data import photos, write_folder, write_parquet, write_saved, write_shards
from tests.robustness.damage import changed_value, damaged

INPUTS = int(os.environ.get("MINIMAGEN_INPUTS", "200"))  # of each kind
PRESET = Path(__file__).parents[2] / "parameters" / "testing"

pytestmark = pytest.mark.slow


class Kind(NamedTuple):
    """Foreign files of one kind.

    Attributes:
        write: Fills a folder with whole files and returns those that are damaged, one at a time.
        read: Reads the folder as a user's command would.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], object]


def _parameters(folder: Path) -> list[Path]:
    shutil.copytree(PRESET, folder, dirs_exist_ok=True)
    return sorted(folder.glob("*.json"))


def _read_parameters(folder: Path) -> None:
    from minimagen.cli.settings import read_settings
    from minimagen.storage.directory import read_parameters

    read_parameters(folder)
    read_settings(folder, False).parameters()


def _minimagen(folder: Path) -> list[Path]:
    unet = {
        "dim": 8,
        "dim_mults": [1, 2],
        "channels": 3,
        "layer_attns": False,
        "lowres_cond": False,
    }
    imagen = {"image_sizes": [8], "timesteps": 5, "text_encoder_name": "t5_mini", "channels": 3}
    stamp = "20220816_165729"
    (folder / f"unet_0_params_{stamp}.json").write_text(json.dumps(unet))
    (folder / f"imagen_params_{stamp}.json").write_text(json.dumps(imagen))
    run = "--PARAMETERS=None\n--BATCH_SIZE=2\n--EPOCHS=2\n--T5_NAME=t5_small\n--OPTIM_LR=0.0001\n"
    (folder / f"training_parameters_{stamp}.txt").write_text(run)
    return sorted(folder.iterdir())


def _checkpoint(folder: Path) -> list[Path]:
    import torch

    from minimagen.storage.checkpoint import save_checkpoint

    save_checkpoint(folder / "unet_0_step_00000001", {"model.w": torch.ones(3)}, {"step": 1})
    return sorted((folder / "unet_0_step_00000001").iterdir())


def _read_checkpoint(folder: Path) -> None:
    from tests.checkpoints import load_newest

    load_newest(folder, "unet_0_step_")


def _weights(folder: Path) -> list[Path]:
    import torch

    from minimagen.storage.checkpoint import save_weights

    save_weights(folder / "unet_0.safetensors", {"w": torch.ones(3)}, {"stage": {"dim": 8}})
    return [folder / "unet_0.safetensors"]


def _read_weights(folder: Path) -> None:
    from minimagen.storage.checkpoint import load_weights

    load_weights(folder / "unet_0.safetensors")


def _t5(folder: Path) -> list[Path]:
    import transformers
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    from minimagen.text.names import T5_MINI

    vocab_size = json.loads((T5_MINI / "config.json").read_text("utf-8"))["vocab_size"]
    size = {"vocab_size": vocab_size, "d_model": 8, "d_kv": 4, "d_ff": 8}
    transformers.utils.logging.disable_progress_bar()
    T5EncoderModel(transformers.T5Config(**size, num_layers=1, num_heads=2)).save_pretrained(folder)
    shutil.copy(T5_MINI / "spiece.model", folder)
    return sorted(folder.iterdir())


def _read_t5(folder: Path) -> None:
    from minimagen.text.pretrained import PretrainedEncoder

    PretrainedEncoder(str(folder)).encode(
        ["a large red star", "a small green heart on a blue background"]
    )


def _captions(folder: Path) -> list[Path]:
    text = "a red star\n\n  eine grüne Blume \n雪の結晶\n"  # noqa: RUF001
    (folder / "captions.txt").write_text(text, "utf-8")
    return [folder / "captions.txt"]


def _read_captions(folder: Path) -> None:
    from minimagen.cli.inference import read_captions

    captions = read_captions(str(folder / "captions.txt"))
    assert captions and all(caption.text.strip() for caption in captions)


def _image(folder: Path, kind: str) -> list[Path]:
    from PIL import Image

    (content,) = photos(1, 24)
    path = folder / f"image.{kind.lower()}"
    Image.open(io.BytesIO(content)).save(path, kind)
    return [path]


def _read_image(folder: Path) -> None:
    from minimagen.data.images.decoding import load_rgb

    (path,) = folder.iterdir()
    assert load_rgb(path.read_bytes(), "image", at_least=8).mode == "RGB"


def _folder(folder: Path, suffix: str) -> list[Path]:
    """Write images with captions in a table of one kind, or in text files."""
    write_folder(folder, 8, 3)
    metadata = folder / "metadata.jsonl"
    rows = [json.loads(line) | {"extra": "x"} for line in metadata.read_text().splitlines()]
    metadata.unlink()
    if suffix == "txt":
        for row in rows:
            (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"] + "\nb\n")
        return sorted(folder.glob("*.txt"))
    path = folder / f"metadata.{suffix}"
    _write_table(path, rows)
    return [path]


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        between = "\t" if path.suffix == ".tsv" else ","
        lines = [between.join(rows[0]), *(between.join(row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")


def _read_data(folder: Path) -> None:
    """Open data and read all its samples, as training does."""
    from minimagen.data.dataset import BadSampleError
    from minimagen.data.open import load_dataset

    dataset = load_dataset(folder, (8, 8))
    if not dataset.repeatable:
        for row in dataset.rows():
            assert isinstance(row, BadSampleError) or row.captions
        return
    for index in range(min(len(dataset), 50)):
        with contextlib.suppress(BadSampleError):
            assert dataset[index].caption.strip()


def _url_table(folder: Path, suffix: str) -> list[Path]:
    rows = [{"url": f"https://example.org/{i}.jpg", "caption": f"thing {i}"} for i in range(4)]
    path = folder / f"table.{suffix}"
    _write_table(path, rows)
    return [path]


def _read_url_table(folder: Path) -> None:
    from minimagen.data.download.url_table import is_url_table, url_rows

    (path,) = folder.iterdir()
    if is_url_table(path):
        for row in url_rows(path, "text"):
            assert isinstance(row.url, str)


def _shards(folder: Path) -> list[Path]:
    return sorted(write_shards(folder, 8, 6).glob("*.tar"))


def _saved(folder: Path) -> list[Path]:
    write_saved(folder, 8, 6)
    for path in (folder / "saved").iterdir():
        path.rename(folder / path.name)
    (folder / "saved").rmdir()
    return sorted(folder.iterdir())


def _parquet(folder: Path) -> list[Path]:
    return sorted(write_parquet(folder, 8, 6).iterdir())


KINDS: dict[str, Kind] = {
    "parameters": Kind(_parameters, _read_parameters),
    "parameters of MinImagen": Kind(_minimagen, _read_parameters),
    "checkpoint": Kind(_checkpoint, _read_checkpoint),
    "weights": Kind(_weights, _read_weights),
    "T5": Kind(_t5, _read_t5),
    "captions": Kind(_captions, _read_captions),
    **{
        f"image, {kind}": Kind(lambda folder, kind=kind: _image(folder, kind), _read_image)  # type: ignore[misc]
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    },
    **{
        f"captions of images, {suffix}": Kind(
            lambda folder, suffix=suffix: _folder(folder, suffix),  # type: ignore[misc]
            _read_data,
        )
        for suffix in ("jsonl", "csv", "parquet", "txt")
    },
    **{
        f"URL table, {suffix}": Kind(
            lambda folder, suffix=suffix: _url_table(folder, suffix),  # type: ignore[misc]
            _read_url_table,
        )
        for suffix in ("jsonl", "csv", "tsv", "parquet")
    },
    "tar shard": Kind(_shards, _read_data),
    "parquet with images": Kind(_parquet, _read_data),
    "saved data set": Kind(_saved, _read_data),
}


def _input(path: Path, whole: bytes, random: Random, mark: Path) -> bytes:
    if path.suffix == ".json" and random.random() < 0.5:
        return changed_value(whole, random)
    return damaged(whole, random, mark)


def outcome(kind: Kind, folder: Path) -> str:
    """Return "read", "refused", or what came instead of a refusal in one line."""
    from minimagen.data.dataset import BadSampleError
    from minimagen.errors import UserError

    try:
        kind.read(folder)
    except (UserError, BadSampleError) as error:
        text = str(error).strip()
        return "refused" if text and "\n" not in text else f"lines: {text[:200]!r}"
    except Exception as error:  # noqa: BLE001 - whatever else comes is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "read"


@pytest.fixture
def quiet() -> Iterator[None]:
    """Silence the libraries' own complaints."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, random = KINDS[name], Random(f"{name} {INPUTS}")
    folder, mark, cache = tmp_path / "foreign", tmp_path / "mark", tmp_path / "cache"
    folder.mkdir()
    whole = {path: path.read_bytes() for path in kind.write(folder)}
    monkeypatch.setenv("MINIMAGEN_CACHE", str(cache / "whole"))
    assert outcome(kind, folder) == "read"
    found: Counter[str] = Counter()
    for number in range(INPUTS):
        monkeypatch.setenv("MINIMAGEN_CACHE", str(cache / str(number)))
        path = random.choice(list(whole))
        path.write_bytes(_input(path, whole[path], random, mark))
        found[outcome(kind, folder)] += 1
        path.write_bytes(whole[path])
        shutil.rmtree(cache, ignore_errors=True)
    assert found.keys() <= {"read", "refused"}, found
    assert not mark.exists(), "a pickle was loaded"


def test_what_is_neither_is_noticed(tmp_path: Path) -> None:
    strange = Kind(_captions, lambda folder: folder / 3)  # type: ignore[operator]
    assert outcome(strange, tmp_path).startswith("TypeError")
