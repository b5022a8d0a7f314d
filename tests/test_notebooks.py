"""The notebooks run from their first cell to their last."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


SHOWN = {"clip_and_diffusion": 4, "demo": 10}  # images: bars, plane ...; seeds, noise, film ...
PRINTED = {"clip_and_diffusion": ("held-out images", "16 frames"), "demo": ()}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("CLIP_STEPS", "2")
    monkeypatch.setenv("STAGE_STEPS", "2")
    monkeypatch.setenv("STEPS", "2")
    monkeypatch.setenv("DIRECTORY", str(ROOT / "pretrained" / "emoji"))
    monkeypatch.setenv("TWO_STAGES", str(ROOT / "pretrained" / "scenes"))
    monkeypatch.setenv("PARAMETERS", str(ROOT / "parameters"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    shown = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(shown) == SHOWN[path.stem]
    text = "".join(o.get("text", "") for o in outputs)
    assert all(line in text for line in PRINTED[path.stem])
