"""Each preset trains, samples and is measured, with the commands that the documents give."""

from pathlib import Path

import pytest
from PIL import Image

from minimagen.__main__ import main as minimagen
from minimagen.cli import inference, train
from minimagen.errors import UserError
from minimagen.evaluation.choice import similarity
from minimagen.imagen import Imagen
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.text.build import load_clip
from tests.conftest import ONE_CAPTION

PRESETS = Path(__file__).parents[2] / "parameters"
WAYS = ("clip", "clip_cascade", "classes", "linear_l1", "linear_l1_shifted", "latent", "dalle")
SHORT = ["--TESTING", "--STEPS", "1", "--BATCH_SIZE", "4", "--VALID_NUM", "4", "--DEVICE", "cpu"]

pytestmark = pytest.mark.usefixtures("one_thread_in_module")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("presets")


def trained(place: Path, name: str) -> Path:
    """Return the training directory of a preset, trained a single step at first use."""
    if not (place / name).exists():
        sheet = ONE_CAPTION if name != "classes" else []  # it takes labels alone
        asked = ["--PARAMETERS", name, *SHORT, *sheet, "--OUTPUT", str(place / name)]
        assert train.main(asked) == 0
    return place / name


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def pixels_of(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.mark.parametrize("name", WAYS)
def test_a_preset_trains_all_that_it_names(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = TrainingDirectory.open(trained(place, name))
    imagen = read_parameters(directory.parameters).imagen
    assert directory.is_trained
    assert sorted(path.stem for path in directory.parameters.glob("*_?.json")) == sorted(
        each for each in imagen.learner_names if each != "clip"
    )
    for learner in imagen.learner_names:
        assert directory.weights(learner).is_file()
    if not imagen.stages:
        return
    caption = imagen.labels[3] if imagen.labels else "a red star on a blue background"
    output = place / f"{name}_images"
    asked = ["-d", str(directory), "-c", caption, "-n", "2", "--SEED", "1", "--DEVICE", "cpu"]
    assert inference.main([*asked, "--OUTPUT", str(output)]) == 0
    assert size_of(output / "generated_images" / "image_0.png") == imagen.image_sizes[-1]


def test_labels_are_those_of_the_data_and_others_are_refused(place: Path) -> None:
    directory = trained(place, "classes")
    imagen = read_parameters(directory / "parameters").imagen
    assert imagen.labels == tuple("0123456789")
    with pytest.raises(UserError, match="'ten' is not a label.*give one of 0, 1, 2"):
        inference.main(["-d", str(directory), "-c", "ten", "-o", str(place / "x")])
    assert not (place / "x").exists()  # nothing is in the way of the next command


def test_a_clip_is_measured(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = trained(place, "clip")
    capsys.readouterr()
    sheet = place / "similarity.png"
    asked = [str(directory), "--DATASET", "digits", "--CAPTION_COLUMN", "digit"]
    assert minimagen(["clip", *asked, "--COUNT", "40", "--SHEET", str(sheet)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("zero-shot accuracy: ") and lines[0].endswith(" % (n 40)")
    assert "R@1" in lines[2] and "R@5" in lines[3]
    assert size_of(sheet)[0] > 24
    shared = place / "shared_clip"
    Imagen.from_directory(directory).save_pretrained(shared)
    capsys.readouterr()
    assert minimagen(["clip", str(shared), *asked[1:], "--COUNT", "40"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == lines[0]
    assert minimagen(["clip", str(shared)]) == 2
    assert "does not say what it was trained on; give --DATASET" in capsys.readouterr().err
    assert minimagen(["clip", str(directory), "--TEMPLATES", "a photo"]) == 2
    assert "must have one {} for the name" in capsys.readouterr().err
    assert minimagen(["clip", str(trained(place, "classes"))]) == 2
    assert "has no CLIP" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["latent", "dalle"])
def test_an_autoencoder_is_measured(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, sheet = trained(place, name), place / f"{name}.png"
    capsys.readouterr()
    asked = ["reconstruct", str(directory), "--COUNT", "6", "--SHEET", str(sheet)]
    saved = place / f"{name}_vae"
    if name == "latent":
        assert minimagen([*asked, "--DIFFUSERS", str(saved)]) == 0
        assert minimagen([*asked, "--DIFFUSERS", str(saved)]) == 2
        assert f"--DIFFUSERS {saved} exists and is not empty" in capsys.readouterr().err
        colors = ["--DATASET", "shapes", "--CAPTION_COLUMN", "color"]
        assert minimagen(["reconstruct", str(saved), *colors, *asked[2:]]) == 0
    else:
        assert minimagen(asked) == 0
    out = capsys.readouterr().out
    assert out.startswith("PSNR ") and "dB (n 6)" in out and "standard deviation" in out
    assert ("codes are used" in out) == (name == "dalle")
    assert size_of(sheet)[0] > 64
    assert minimagen(["reconstruct", str(place / "elsewhere")]) == 2
    assert "does not say what it was trained on" in capsys.readouterr().err


def test_the_best_of_several_is_one_of_them_and_its_seed_gives_it_again(place: Path) -> None:
    directory, clip = str(trained(place, "linear_l1")), str(trained(place, "clip"))
    asked = ["-d", directory, "-c", "a red star", "--DEVICE", "cpu", "-t", "2"]
    many, best = place / "many", place / "best"
    assert inference.main([*asked, "-n", "3", "--SEED", "5", "-o", str(many)]) == 0
    choose = ["--BEST_OF", "3", "--CLIP", clip]
    assert inference.main([*asked, *choose, "--SEED", "5", "-o", str(best)]) == 0
    images = [(many / "generated_images" / f"image_{i}.png") for i in range(3)]
    (kept,) = (best / "generated_images").glob("*.png")
    near = similarity(load_clip(Path(clip)), "a red star", [Image.open(path) for path in images])
    assert pixels_of(kept) == pixels_of(images[int(near.argmax())])
    for flags in (["--BEST_OF", "3"], ["--CLIP", clip]):
        with pytest.raises(UserError, match="--BEST_OF and --CLIP belong together"):
            inference.main([*asked, *flags])
    itself = str(trained(place, "clip_cascade"))
    with pytest.raises(UserError, match="it would judge itself"):
        own = ["-d", itself, "-c", "a red star", "--BEST_OF", "2", "--CLIP", itself]
        inference.main([*own, "-o", str(place / "own")])


def test_learners_are_chosen_by_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = place / "some"
    asked = ["--PARAMETERS", "dalle", *SHORT, *ONE_CAPTION, "-o", str(output), "--LEARNERS"]
    assert train.main([*asked, "autoencoder_0"]) == 0
    directory = TrainingDirectory.open(output)
    assert directory.weights("autoencoder_0").is_file()
    assert not directory.weights("gpt_0").exists()
    assert train.main([*asked, "gpt_0,unet_1"]) == 0
    assert directory.is_trained
    for flags, words in (
        (["--LEARNERS", "gtp_0"], "there is no 'gtp_0'; did you mean 'gpt_0'"),
        (["--LEARNERS", "gpt_0", "--STAGES", "0"], "--STAGES contradicts --LEARNERS"),
    ):
        with pytest.raises(UserError, match=words):
            train.main(["--PARAMETERS", "dalle", *SHORT, *flags])


@pytest.mark.parametrize("name", WAYS)
def test_a_preset_says_what_it_costs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--PARAMETERS", name, "--DRY_RUN"]) == 0
    out = capsys.readouterr().out
    imagen = read_parameters(PRESETS / name).imagen
    for learner in imagen.learner_names:
        stage = learner.removeprefix("unet_")
        assert (f"stage {stage}" if stage != learner else f"{learner}: ") in out
    assert f"text encoder: {imagen.text_encoder_name}" in out


def test_evaluate_asks_a_cascade_of_labels_for_labels(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(trained(place, "classes"))
    capsys.readouterr()
    assert (
        minimagen(["evaluate", "-d", directory, "--COUNT", "6", "-t", "1", "--DEVICE", "cpu"]) == 0
    )
    out = capsys.readouterr().out
    assert "judge on real, 32 x 32" in out and "digit" in out
    assert minimagen(["evaluate", "-d", str(trained(place, "clip"))]) == 2
    assert "has no stage that makes images" in capsys.readouterr().err


def test_data_of_ones_own_has_captions_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ["--PARAMETERS", "classes", "--PRINT_CONFIG"]
    for flags, column in (
        ([], "digit"),
        (["--DATASET", "digits"], "digit"),
        (["--DATASET", "shapes"], "text"),
        (["--DATASET", "shapes", "--CAPTION_COLUMN", "color"], "color"),
    ):
        assert train.main([*shown, *flags]) == 0
        assert f"data.caption_column = '{column}'" in capsys.readouterr().out


def test_shapes_of_images_that_a_preset_cannot_take_are_refused() -> None:
    for name in ("clip", "clip_cascade", "dalle"):
        with pytest.raises(UserError, match="--ASPECT_BUCKETS needs diffusion stages"):
            train.main(["--PARAMETERS", name, *SHORT, "--ASPECT_BUCKETS"])
