"""The page of the tour and the notebook, from their sources beside this file."""

import json
from pathlib import Path
from string import Template

from tools.tour.chapters import Tour, levels

FOLDER = Path(__file__).parent
MARK, MARKDOWN = "# %%", "# %% [markdown]"


def page(tour: Tour, images: str) -> str:
    """Return the page: ``page.md`` with the table of noise levels and the folder of the images."""
    rows = [
        f"| {t:.1f} | {alpha:.3f} | {sigma:.3f} | {log_snr:.1f} |"
        for t, alpha, sigma, log_snr in levels(tour)
    ]
    text = Template((FOLDER / "page.md").read_text("utf-8"))
    return text.substitute(images=images, levels="\n".join(rows))


def notebook() -> dict[str, object]:
    """Return the notebook of ``notebook.py``: a cell for each ``# %%``, without outputs."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": [_cell(i, text) for i, text in enumerate(_texts())],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write_notebook(path: Path) -> None:
    """Write the notebook."""
    text = json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, "utf-8")


def _texts() -> list[str]:
    source = (FOLDER / "notebook.py").read_text("utf-8")
    return [MARK + part for part in source.split(MARK)[1:]]


def _cell(number: int, text: str) -> dict[str, object]:
    head, _, body = text.partition("\n")
    cell = {"id": f"cell-{number}", "metadata": {}}
    if head == MARKDOWN:
        lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip().split("\n")]
        return cell | {"cell_type": "markdown", "source": _lines("\n".join(lines))}
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    return cell | code | {"source": _lines(body.strip())}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
