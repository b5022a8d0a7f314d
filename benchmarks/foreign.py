"""Damage every kind of file that somebody else may have written, many times, and read it.

    python -m benchmarks.foreign

Whatever is in such a file, it is read, or refused in one line; anything else (a traceback, a file
that a planted pickle leaves behind, a crash of the process) is an escape. The damage is a function
of the case, so an escape comes again.
"""

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from benchmarks.damage import changed_value, damaged
from benchmarks.data import write_folder, write_parquet, write_saved, write_shards
from benchmarks.measuring import ROOT, Case, Row, answer, build_parser, run_cases

INPUTS = 2000  # of each kind
PRESET = ROOT / "parameters" / "testing"


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
    from minimagen.storage.checkpoint import load_newest

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

    from minimagen.text.t5_files import T5_MINI

    vocab_size = json.loads((T5_MINI / "config.json").read_text("utf-8"))["vocab_size"]
    size = {"vocab_size": vocab_size, "d_model": 8, "d_kv": 4, "d_ff": 8}
    transformers.utils.logging.disable_progress_bar()
    T5EncoderModel(transformers.T5Config(**size, num_layers=1, num_heads=2)).save_pretrained(folder)
    shutil.copy(T5_MINI / "spiece.model", folder)
    return sorted(folder.iterdir())


def _read_t5(folder: Path) -> None:
    from minimagen.text.t5 import T5Encoder

    T5Encoder(str(folder)).encode(["a large red star", "a small green heart on a blue background"])


def _captions(folder: Path) -> list[Path]:
    text = "a red star\n\n  eine grüne Blume \n雪の結晶\n"  # noqa: RUF001
    (folder / "captions.txt").write_text(text, "utf-8")
    return [folder / "captions.txt"]


def _read_captions(folder: Path) -> None:
    from minimagen.cli.inference import read_captions

    captions = read_captions(str(folder / "captions.txt"))
    assert captions and all(caption.strip() for caption in captions)


def _picture(folder: Path, kind: str) -> list[Path]:
    from PIL import Image

    content = next(iter(_photo()))
    path = folder / f"picture.{kind.lower()}"
    Image.open(io.BytesIO(content)).save(path, kind)
    return [path]


def _photo() -> Iterator[bytes]:
    from benchmarks.data import photos

    return photos(1, 24)


def _read_picture(folder: Path) -> None:
    from minimagen.data.images.decoding import load_rgb

    (path,) = folder.iterdir()
    assert load_rgb(path.read_bytes(), "picture", at_least=8).mode == "RGB"


def _folder(folder: Path, suffix: str) -> list[Path]:
    """Write pictures with captions in a table of one kind, or in text files."""
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
        f"picture, {kind}": Kind(lambda folder, kind=kind: _picture(folder, kind), _read_picture)  # type: ignore[misc]
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    },
    **{
        f"captions of pictures, {suffix}": Kind(
            lambda folder, suffix=suffix: _folder(folder, suffix),  # type: ignore[misc]
            _read_data,
        )
        for suffix in ("jsonl", "csv", "parquet", "txt")
    },
    **{
        f"table of addresses, {suffix}": Kind(
            lambda folder, suffix=suffix: _url_table(folder, suffix),  # type: ignore[misc]
            _read_url_table,
        )
        for suffix in ("jsonl", "csv", "tsv", "parquet")
    },
    "tar shard": Kind(_shards, _read_data),
    "parquet with pictures": Kind(_parquet, _read_data),
    "saved data set": Kind(_saved, _read_data),
}


def measure(case: Case, started: float) -> Row:
    """Damage and read one kind of file as often as the case says."""
    logging.disable(logging.ERROR)  # the libraries' own complaints
    try:
        with warnings.catch_warnings(action="ignore"):
            return _measure(case)
    finally:
        logging.disable(logging.NOTSET)


def _measure(case: Case) -> Row:
    kind, random = KINDS[case["kind"]], Random(f"{case['kind']} {case['inputs']}")
    escapes: Counter[str] = Counter()
    read = refused = 0
    with tempfile.TemporaryDirectory() as name:
        folder, mark = Path(name) / "foreign", Path(name) / "mark"
        folder.mkdir()
        files = kind.write(folder)
        whole = {path: path.read_bytes() for path in files}
        os.environ["MINIMAGEN_CACHE"] = f"{name}/cache/whole"
        assert (found := outcome(kind, folder)) == "read", found
        for number in range(case["inputs"]):
            os.environ["MINIMAGEN_CACHE"] = f"{name}/cache/{number}"
            path = random.choice(files)
            path.write_bytes(_input(path, whole[path], random, mark))
            found = outcome(kind, folder)
            read, refused = read + (found == "read"), refused + (found == "refused")
            if found not in ("read", "refused"):
                escapes[found] += 1
            path.write_bytes(whole[path])
            shutil.rmtree(f"{name}/cache", ignore_errors=True)
        ran = mark.exists()
    return {"read": read, "refused": refused, "escapes": dict(escapes), "code_ran": ran}


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


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--inputs", type=int, help=f"of each kind [{INPUTS}; quick 12]")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    inputs = arguments.inputs or (12 if arguments.quick else INPUTS)
    cases: list[Case] = [{"kind": kind, "inputs": inputs} for kind in arguments.only]
    return run_cases("benchmarks.foreign", cases, measure, arguments)


if __name__ == "__main__":
    main()
