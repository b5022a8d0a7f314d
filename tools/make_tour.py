"""Make docs/tour.md, its images and examples/demo.ipynb from a trained cascade.

    python tools/make_tour.py DIR --out docs/tour/

DIR is a training directory of the demo (``python main.py``). The images go to ``--out``, the page
beside it with the same name and ``.md``. The page's text is ``tools/tour/page.md``; the cells of
the notebook are ``tools/tour/notebook.py``.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from minimagen import Imagen  # noqa: E402
from tools.tour.chapters import Tour, write_images  # noqa: E402
from tools.tour.page import page, write_notebook  # noqa: E402


def main() -> None:
    """Write the tour."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="training directory of two stages or more")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "tour", help="for the images")
    parser.add_argument("--notebook", type=Path, default=ROOT / "examples" / "demo.ipynb")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_grad_enabled(False)
    tour = Tour(Imagen.from_directory(asked.directory), asked.seed)
    write_images(tour, asked.out)
    asked.out.with_suffix(".md").write_text(page(tour, asked.out.name), "utf-8")
    write_notebook(asked.notebook)


if __name__ == "__main__":
    main()
