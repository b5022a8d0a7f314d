"""``python -m minimagen ui``: a page in the browser to generate, edit and look at runs."""

import os
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field

from minimagen.cli import options
from minimagen.cli.arguments import Option, Parser
from minimagen.cli.running import run
from minimagen.cli.settings import bundled_cascades
from minimagen.cli.threads import use_free_cores
from minimagen.errors import UserError

PORT = Option(
    "PORT", "po", "Port on this machine (127.0.0.1 only)", Annotated[int, Field(ge=1, le=65535)],
    shown="GRADIO_SERVER_PORT, else 7860",
)  # fmt: skip
OPTIONS = {
    "the page": (
        Option("ROOT", "r", "Folder with training directories; images are written there too", Path,
               shown="here, with the bundled cascades"),
        PORT,
        options.DEVICE,
    )
}  # fmt: skip
EXAMPLES = """  python -m minimagen ui
  python -m minimagen ui --ROOT my_trainings --PORT 7000
  python -m minimagen ui --DEVICE cpu"""


def main(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; return the exit code."""
    arguments = Parser("python -m minimagen ui", __doc__ or "", EXAMPLES, OPTIONS).parse(argv)
    root = Path() if arguments.ROOT is None else arguments.ROOT
    if not root.is_dir():
        raise UserError(f"--ROOT {root} is no folder; give one with training directories")
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install gradio")
    port = arguments.PORT or PORT.parse(os.environ.get("GRADIO_SERVER_PORT") or "7860")
    use_free_cores()  # before torch is imported
    from minimagen.ui.page import build, serve
    from minimagen.ui.studio import Studio

    bundled = [] if arguments.ROOT is not None else bundled_cascades()
    studio = Studio(root.resolve(), bundled, arguments.DEVICE)
    if not studio.models() and not studio.runs():
        raise UserError(
            f"{root} has no trained directory; train one with python train.py, or leave out --ROOT"
        )
    if not studio.models():  # a first training can be watched
        studio = Studio(root.resolve(), bundled_cascades(), arguments.DEVICE)
    try:
        serve(build(studio), studio, port)
    except OSError as error:
        raise UserError(f"cannot serve on port {port}: {error}; give another --PORT") from None
    return 0


entry = partial(run, main)
