"""Which package may import which: those of the layers below its own, and no other."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minimagen"
LAYERS = [
    {"errors"},
    {"advice", "checked", "cores", "draws", "foreign", "progress", "sample"},
    {"config", "device"},
    {"images", "jitter"},
    {"given"},
    {"arguments", "learner"},
    {"diffusion", "networks", "shapes", "storage"},
    {"autoencoders", "text"},
    {"between", "data", "stages"},
    {"imagen"},
    {"editing", "generating", "training"},
    {"evaluation"},
    {"ui"},
    {"cli"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
ENTRY_POINTS = {"__init__", "__main__"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Return the dotted names that a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package(dotted):
    """minimagen.diffusion.loss.x -> diffusion."""
    return dotted.split(".")[1]


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_package_is_in_a_layer():
    assert {package_of(path) for path in FILES} - ENTRY_POINTS == LAYER.keys()


def test_the_page_of_the_architecture_lists_the_layers():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = {}
    for layer, names in re.findall(r"^\| (\d+) \| ([^|]*) \|", page, re.MULTILINE):
        for name in re.findall(r"`(\w+)(?:/|\.py)`", names):
            listed[name] = int(layer) - 1
    assert listed == LAYER


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    own = package_of(path)
    if own in ENTRY_POINTS:
        return
    for name in imports(path):
        if name.startswith("minimagen.") and package(name) in LAYER and package(name) != own:
            assert LAYER[package(name)] < LAYER[own], f"{path} imports {name}"


@pytest.mark.parametrize("file", ["trainer.py", "ema.py", "optim.py"])
def test_the_trainer_knows_of_no_diffusion_no_data_and_no_files(file):
    used = {package(n) for n in imports(PACKAGE / "training" / file) if n.startswith("minimagen.")}
    assert used <= {"images", "config", "device", "draws", "learner", "training"}


def test_the_mathematics_needs_torch_alone():
    for path in (PACKAGE / "diffusion").glob("*.py"):
        outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "minimagen"}, path


def test_nothing_imports_torchvision():
    for path in FILES:
        assert not any(name.split(".")[0] == "torchvision" for name in imports(path)), path


def _loaded_by(module):
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize("module", ["minimagen", "minimagen.config", "minimagen.cli.arguments"])
def test_the_first_second_loads_no_heavy_library(module):
    path = ROOT / Path(*module.split("."))
    if not path.is_dir() and not path.with_suffix(".py").is_file():
        pytest.skip(f"{module} is not there")
    heavy = {"torch", "transformers", "datasets", "gradio", "numpy", "accelerate"}
    assert not _loaded_by(module) & heavy


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_types_are_not_argued_away(path):
    """No cast; what mypy is asked to ignore has a reason on its line."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bcast\(", text.replace("autocast(", ""))
    for line in text.splitlines():
        if "type: ignore" in line:
            assert re.search(r"# type: ignore\[[\w-]+\]  # \w", line), line


def test_kinds_are_told_apart_where_stages_are_built_and_in_three_other_places():
    """Objects of the user's own become data sets; docs/decisions.md has why the others do."""
    names = r"\w*Stage|(Diffusion|Distilled|Diffusers|Token)Config|\w+Encoder|EmbeddingCache"
    names += r"|Pixels|\w*Autoencoder|\w*Dataset|ImageStream"
    kinds = rf"isinstance\([^)]*\b({names})\b"
    found = {p.relative_to(PACKAGE).as_posix() for p in FILES if re.search(kinds, p.read_text())}
    others = {"data/indexed.py", "cli/dry_run.py", "training/plan.py"}
    assert found == {"stages/build.py"} | others
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] not in ("stages", "cli"):
            assert not re.search(r"\b(stage|learner)\.unet\b", path.read_text()), path
