"""Count the files that a caption passes through, from the flag to the first cross-attention.

    python tools/trace_caption.py                   # this checkout
    python tools/trace_caption.py --root ../other   # another one

Runs ``train.py --DATASET FOLDER`` once: one step of the testing preset's first stage, on the CPU,
in this process, with an empty cache. FOLDER holds eight images made here, and a ``metadata.jsonl``
that gives all of them one caption. Every function of ``train.py`` and ``minimagen/`` is watched
from the start until the first ``forward`` of ``networks/attention.py`` that follows the caption's
arrival in ``networks/embeddings.py``.

A file counts if one of its functions has the caption among its arguments, local variables or
return values, in one of four forms:

* flag: FOLDER itself, as a str or a Path (not a file in it);
* text: a str or bytes that contains the caption;
* tokens: a list, array or tensor one of whose rows begins with the caption's token ids;
* encoding: an array or tensor of floats with a row that equals the embedding of the first token.

Lists, tuples, sets, dictionaries and dataclasses are searched, two levels deep, their first 64
items; other objects are not, so that an object is not counted for what it could look up. The file
of the first cross-attention always counts: there the encoding has become keys and values. Files
that only decide which caption comes when are not counted.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import os
import runpy
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

CAPTION = "a brass teapot beside seven lemons"
OTHER = "a large red star on a blue background"  # of the run's sample images
IMAGES, SIDE = 8, 32
DEPTH, ITEMS = 2, 64
FORMS = ("flag", "text", "tokens", "encoding")
ARRIVAL, END = "minimagen/networks/embeddings.py", "minimagen/networks/attention.py"


class Trace:
    """Collects the forms of the caption that the functions of each file hold.

    Args:
        root: The checkout whose functions are watched.
        folder: The value of ``--DATASET``.
        tokens: The caption's token ids.
        first: The embedding of its first token, ``[d]``.
    """

    def __init__(self, root: Path, folder: Path, tokens: Sequence[int], first: Any) -> None:
        self.root, self.folder, self.tokens, self.first = root, folder, list(tokens), first
        self.forms: dict[str, set[str]] = defaultdict(set)
        self.ended = False
        self._own = functools.cache(self._name_of)  # it is asked at every call of any function

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        """Profile one event; only calls and returns of the checkout's own functions count."""
        if self.ended or event not in ("call", "return"):
            return
        name = self._own(frame.f_code.co_filename)
        if name is None:
            return
        if name == END and frame.f_code.co_name == "forward" and "encoding" in self.forms[ARRIVAL]:
            self.forms[name].add("encoding")
            self.ended = True
            sys.setprofile(None)
            return
        held = [*frame.f_locals.values(), value] if event == "return" else frame.f_locals.values()
        self.forms[name].update(form for each in held for form in self._forms(each, DEPTH))

    def _name_of(self, filename: str) -> str | None:
        """Return the name of a file of the checkout whose functions count, else None."""
        path = Path(filename)
        if not path.is_relative_to(self.root):
            return None
        name = path.relative_to(self.root).as_posix()
        return name if name == "train.py" or name.startswith("minimagen/") else None

    def _forms(self, value: Any, depth: int) -> Iterator[str]:
        """Yield the forms of the caption that ``value`` holds."""
        import numpy as np
        import torch

        if isinstance(value, str | bytes):
            text = value if isinstance(value, str) else value.decode("utf-8", "replace")
            if text == str(self.folder):
                yield "flag"
            elif CAPTION in text:
                yield "text"
        elif isinstance(value, Path):
            if value == self.folder:
                yield "flag"
        elif isinstance(value, torch.Tensor):
            yield from self._forms_of_array(value.detach().float().numpy())
        elif isinstance(value, np.ndarray):
            if value.dtype.kind in "iuf":
                yield from self._forms_of_array(value)
        elif depth:
            items = list(islice(contents(value), ITEMS))
            if items and all(type(each) is int for each in items):
                yield from self._forms_of_array(np.array(items))
            else:
                for each in items:
                    yield from self._forms(each, depth - 1)

    def _forms_of_array(self, array: Any) -> Iterator[str]:
        import numpy as np

        if array.ndim == 0 or 0 in array.shape:
            return
        rows = array.reshape(-1, array.shape[-1])
        if rows.shape[1] >= len(self.tokens):
            if (rows[:, : len(self.tokens)] == self.tokens).all(axis=1).any():
                yield "tokens"
        if rows.shape[1] == len(self.first):
            if np.isclose(rows, self.first, rtol=0.02, atol=0.02).all(axis=1).any():
                yield "encoding"


def contents(value: Any) -> Iterable[Any]:
    """Return what a container or a dataclass holds; nothing for any other object."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()] if len(value) <= ITEMS else []
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return [getattr(value, name) for name in names if hasattr(value, name)]
    return []


def encoded(encoder: Path) -> tuple[list[int], Any]:
    """Return the caption's token ids and its first embedding, from transformers alone."""
    import torch
    from sentencepiece import SentencePieceProcessor
    from transformers import T5EncoderModel

    ids = SentencePieceProcessor(model_file=str(encoder / "spiece.model")).encode(CAPTION)
    ids.append(1)  # the end of the sequence
    model = T5EncoderModel.from_pretrained(encoder).eval()
    with torch.inference_mode():
        embeds = model(torch.tensor([ids])).last_hidden_state[0]
    return ids, embeds[0].numpy()


def prepare(root: Path, scratch: Path) -> tuple[Path, Path]:
    """Write the images with their captions, and the testing preset for one step; return both."""
    from PIL import Image

    folder, parameters = scratch / "captioned", scratch / "parameters"
    folder.mkdir()
    rows = [{"file_name": f"{i}.png", "text": CAPTION} for i in range(IMAGES)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, "utf-8")
    for i in range(IMAGES):
        Image.new("RGB", (SIDE, SIDE), (30 * i, 90, 200)).save(folder / f"{i}.png")
    shutil.copytree(root / "parameters" / "testing", parameters)
    training = parameters / "training.json"
    changed = {"steps": 1, "batch_size": 2, "sample_captions": [OTHER]}
    training.write_text(json.dumps(json.loads(training.read_text("utf-8")) | changed), "utf-8")
    return folder, parameters


def trace(root: Path, scratch: Path) -> dict[str, set[str]]:
    """Train one step of the checkout at ``root``; return the forms of the caption in each file."""
    os.environ["MINIMAGEN_CACHE"] = str(scratch / "cache")
    folder, parameters = prepare(root, scratch)
    watched = Trace(root, folder, *encoded(root / "minimagen" / "text" / "t5_mini"))
    flags = ["--DATASET", str(folder), "--PARAMETERS", str(parameters), "--DEVICE", "cpu"]
    sys.argv = ["train.py", *flags, "--STAGES", "0", "--OUTPUT", str(scratch / "trained")]
    sys.path.insert(0, str(root))
    output = io.StringIO()
    threading.setprofile(watched)
    sys.setprofile(watched)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            runpy.run_path(str(root / "train.py"), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(output.getvalue()) from end
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    if not watched.ended:
        raise RuntimeError("the caption never reached a cross-attention")
    return {name: forms for name, forms in watched.forms.items() if forms}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the files and their number."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    root = parser.parse_args(argv).root.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        files = trace(root, Path(scratch).resolve())
    for name, forms in files.items():
        print(f"{name:<44}", ", ".join(form for form in FORMS if form in forms))
    print(f"{len(files)} files")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a profiled interpreter sometimes aborts at its end, in a thread of a C++ library
