"""A wheel built here and used in another folder has all that the commands need."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import minimagen
from tests.conftest import ONE_CAPTION

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
WITHOUT_NETWORK = ["--no-deps", "--no-index"]


def _files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix() for p in found if "__pycache__" not in p.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", *WITHOUT_NETWORK, "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run([*PIP, *build], check=True)
    return next(folder.glob("minimagen_cascade-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    subprocess.run([*PIP, "install", *WITHOUT_NETWORK, "-t", str(site), str(wheel)], check=True)
    return site


def _run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, str(installed / "bin" / "minimagen"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_the_package_the_presets_and_the_bundled_cascades_and_nothing_else(
    wheel: Path,
) -> None:
    package = {f"minimagen/{name}" for name in _files(ROOT / "minimagen")}
    presets = {f"minimagen/parameters/{name}" for name in _files(ROOT / "parameters")}
    bundled = {f"minimagen/pretrained/{name}" for name in _files(ROOT / "pretrained")}
    assert {"minimagen/py.typed", "minimagen/text/t5_mini/spiece.model"} <= package
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert names == package | presets | bundled
    assert "minimagen/pretrained/README.md" in bundled


def test_the_installed_command_runs_the_demo_and_samples_from_what_is_bundled_in_any_folder(
    installed: Path, tmp_path: Path
) -> None:
    ran = _run(installed, tmp_path, "demo", "--TESTING", "--DEVICE", "cpu", *ONE_CAPTION)
    assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.glob("generated_images_*/grid.png"))
    (trained,) = tmp_path.glob("training_*")
    _is_sampled_from_when_bundled(installed, trained, tmp_path / "elsewhere")


def _is_sampled_from_when_bundled(installed: Path, trained: Path, folder: Path) -> None:
    bundled = installed / "minimagen" / "pretrained" / "emoji"
    shutil.rmtree(bundled, ignore_errors=True)
    shutil.copytree(trained, bundled)
    folder.mkdir()
    ran = _run(installed, folder, "inference", "-c", "a red star", "--DEVICE", "cpu")
    assert ran.returncode == 0, ran.stderr
    assert f"training directory: {bundled} (bundled" in ran.stdout
    assert list(folder.glob("generated_images_*/generated_images/image_0.png"))


def test_the_installed_command_finds_each_preset_by_its_name(
    installed: Path, tmp_path: Path
) -> None:
    for preset in ("testing", "imagen_64_256_1024"):
        ran = _run(installed, tmp_path, "train", "--PARAMETERS", preset, "--PRINT_CONFIG")
        assert ran.returncode == 0, ran.stderr
        assert f"({installed / 'minimagen' / 'parameters' / preset})" in ran.stdout
    ran = _run(installed, tmp_path, "train", "--PARAMETERS", "tasting")
    assert ran.returncode == 2 and "imagen_64_256_1024, latent, linear_l1" in ran.stderr


def test_the_installed_command_prints_help_and_its_version(installed: Path, tmp_path: Path) -> None:
    assert "COMMAND" in _run(installed, tmp_path, "--help").stdout
    printed = _run(installed, tmp_path, "--version").stdout
    assert printed == f"minimagen-cascade {minimagen.__version__}\n"
