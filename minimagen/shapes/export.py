"""Write the embedded data set out as a Hugging Face image folder."""

import json
from pathlib import Path

from PIL import Image

from minimagen.errors import UserError
from minimagen.shapes.dataset import DrawnDataset


def export_drawn(out: str | Path, dataset: DrawnDataset) -> Path:
    """Write PNGs and `metadata.jsonl` with `file_name`, `text` and one column per attribute.

    `datasets.load_dataset("imagefolder", data_dir=out)` and our `load_dataset(out)` read it. The
    images are those that training would see: the same stream from its start.

    An attribute that an image does not have is written as "".

    Args:
        out: a folder that does not exist or is empty; it is returned.
        dataset: its epoch is written.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    out, count = Path(out), len(dataset)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{str(out)!r} is not an empty folder: give a new one, nothing was written")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
            for index, sample in enumerate(dataset):
                name = f"{index:0{len(str(count - 1))}d}.png"
                Image.fromarray(sample.image).save(out / name)
                columns = {n: sample.attributes.get(n, "") for n in dataset.drawing.ATTRIBUTES}
                row = {"file_name": name, "text": sample.caption, **columns}
                metadata.write(json.dumps(row) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error}; free some space or give another folder "
            "(what is there now is incomplete)"
        ) from None
    return out
