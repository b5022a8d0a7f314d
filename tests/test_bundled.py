"""Bundled cascades: their data, the tool that trains them, their judges and their cards."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import bundled, composed_judge
from benchmarks.composed_emoji import GROUNDS, ComposedEmoji, cut_out, takes_article, wording
from minimagen import Imagen
from minimagen.errors import UserError
from minimagen.shapes.drawing import COLORS, SHAPES, shape_mask
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory, read_parameters, write_parameters
from tools import pretrain_cascade

ROOT = Path(__file__).parents[1]
BUNDLED = sorted(path.parent for path in ROOT.glob("pretrained/*/parameters"))
LARGEST_FILE, LARGEST_TOGETHER = 16e6, 40e6  # bytes


pytestmark = pytest.mark.usefixtures("one_thread_in_module")


def drawn(
    shape: str, color: tuple[int, int, int], ground: tuple[int, int, int], extent: float = 0.7
) -> np.ndarray:
    image = Image.new("RGB", (64, 64), ground)
    image.paste(color, mask=shape_mask(shape, 64, (0.5, 0.5), extent))
    return np.asarray(image)


@pytest.fixture(scope="module")
def emoji_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colored shapes with the columns of the emoji."""
    root = tmp_path_factory.mktemp("data")
    folder, lines = root / "emoji", []
    folder.mkdir()
    names = [(f"{color} {shape}", color, shape) for color in list(COLORS)[:6] for shape in SHAPES]
    for code, (name, color, shape) in enumerate(names):
        for style, extent in (("noto", 0.8), ("fluent3d", 0.5), ("openmoji", 0.6)):
            file = f"{style}_{code}.png"
            image = drawn(shape, COLORS[color], (255, 255, 255), extent)
            Image.fromarray(image).save(folder / file)
            row = {"file_name": file, "text": name, "group": "objects", "style": style}
            row |= {"tags": [f"thing {chr(97 + code % 26)}"], "codepoints": str(code)}
            lines.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


@pytest.fixture
def here(emoji_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIMAGEN_BENCHMARK_DATA", str(emoji_folder.parent))
    return emoji_folder


@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - {"ring"}))
def test_what_was_composited_on_white_is_cut_out_with_its_soft_edge(shape: str) -> None:
    cut = cut_out(drawn(shape, COLORS["red"], (255, 255, 255)))
    np.testing.assert_allclose(
        cut.over((255, 255, 255)).astype(int), drawn(shape, COLORS["red"], (255, 255, 255)), atol=6
    )
    for ground in ("blue", "black", "yellow"):
        true = drawn(shape, COLORS["red"], COLORS[ground]).astype(int)
        difference = np.abs(cut.over(COLORS[ground]) - true)
        # but for tips of one pixel, whose own color no pixel shows
        assert np.quantile(difference, 0.995) <= 8 and difference.mean() < 0.5


def test_white_that_is_enclosed_stays_white() -> None:
    on_blue = cut_out(drawn("ring", COLORS["red"], (255, 255, 255))).over(COLORS["blue"])
    assert (on_blue[32, 32] == 255).all() and (on_blue[0, 0] == COLORS["blue"]).all()


def test_a_background_differs_from_the_edge_and_a_pale_edge_stays_on_white() -> None:
    red, pale = (
        cut_out(drawn("heart", color, (255, 255, 255))) for color in (COLORS["red"], (235,) * 3)
    )
    assert set(red.grounds) == GROUNDS.keys() - {"red"}
    assert pale.grounds == ()


def test_no_share_alike_style_and_no_held_out_combination_is_trained_on(here: Path) -> None:
    training = ComposedEmoji(here)
    held_out = training.validation
    assert isinstance(held_out, ComposedEmoji) and len(held_out) > 0
    parts = [{(r["text"], r["style"]) for r in part.emoji} for part in (training, held_out)]
    assert not parts[0] & parts[1]
    assert {style for part in parts for _, style in part} == {"noto", "fluent3d"}
    for name, style in parts[1]:  # the same emoji is trained on in the other style
        assert any(known[0] == name and known[1] != style for known in parts[0])


def test_a_sample_is_a_function_of_its_index_and_training_draws_others(here: Path) -> None:
    emoji = ComposedEmoji(here)
    one, two = emoji[3], ComposedEmoji(here)[3]
    assert one.caption == two.caption and (one.image == two.image).all()
    drawn_ = [emoji.draw(3, Random(i)) for i in range(40)]
    assert len({sample.caption for sample in drawn_}) > 8
    for sample in drawn_:
        ground = sample.attributes["background"]
        assert (sample.image[0, 0] == GROUNDS[ground]).all()
        assert f"{sample.attributes['style']} style" in sample.caption
        assert ground == "white" or f"{ground} background" in sample.caption


def test_captions_combine_name_style_and_background() -> None:
    row = {"text": "red apple", "group": "food-drink", "style": "noto", "tags": []}
    captions = {wording(row, "blue", Random(i)) for i in range(60)}
    assert captions == {
        "red apple, noto style, on a blue background",
        "a red apple, noto style, on a blue background",
        "red apple on a blue background, noto style",
        "a red apple on a blue background, noto style",
    }
    assert {wording(row, "", Random(i)) for i in range(20)} == {
        "red apple, noto style",
        "a red apple, noto style",
    }


def test_only_the_name_of_one_thing_takes_an_article() -> None:
    singular = ("rocket", "octopus", "wine glass", "nest with eggs", "face in clouds")
    others = ("grapes", "people holding hands", "Santa Claus", "two hearts", "keycap 5")
    assert all(takes_article({"text": name, "group": "objects"}) for name in singular)
    assert not any(takes_article({"text": name, "group": "objects"}) for name in others)
    assert not takes_article({"text": "wavy dash", "group": "symbols"})


def test_a_folder_without_emoji_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no emoji in"):
        ComposedEmoji(tmp_path)


def parameters(folder: Path, rate: float) -> Path:
    """Write the testing preset for 64 px with this learning rate."""
    imagen, training, data = read_parameters(ROOT / "parameters" / "testing")
    stages = [stage.replace(optim_lr=rate) for stage in training.learners]
    training = training.replace(learners=stages, precision="fp32")
    write_parameters(
        folder,
        pretrain_cascade.Parameters(
            imagen.replace(image_sizes=(16, 64)), training, data.replace(valid_num=4)
        ),
    )
    return folder


@pytest.fixture(scope="module")
def trained(emoji_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade that two runs of the tool have trained, the second one at no learning rate."""
    root = tmp_path_factory.mktemp("trained")
    for run, rate in enumerate((1e-3, 1e-12)):
        pretrain_cascade.main(
            ["emoji", "--steps", "2", "--parameters", str(parameters(root / f"p{run}", rate)),
             "--data", str(emoji_folder), "--out", str(root / "emoji"), "--device", "cpu",
             "--work", str(root / f"work_{run}")]
        )  # fmt: skip
    return root


def test_the_tool_bundles_weights_in_eight_bits_that_load(trained: Path) -> None:
    directory = TrainingDirectory(trained / "emoji")
    for name in ("unet_0", "unet_1"):
        stored = load_file(directory.weights(name))
        assert {x.dtype for x in stored.values()} == {torch.int8, torch.float16, torch.float32}
        whole = TrainingDirectory(trained / "work_1").weights(name)
        assert directory.weights(name).stat().st_size < 0.4 * whole.stat().st_size
    imagen = Imagen.from_directory(trained / "emoji")
    assert {p.dtype for p in imagen.stages[0].parameters()} == {torch.float32}
    images = [
        Imagen.from_directory(path).sample("red star, noto style", seed=0, precision="fp32")
        for path in (trained / "emoji", trained / "work_1")
    ]
    bundled_, whole = (np.asarray(image).astype(int) for image in images)
    assert bundled_.shape == (64, 64, 3)
    assert np.abs(bundled_ - whole).max() <= 6 and np.abs(bundled_ - whole).mean() < 1


def test_a_later_run_goes_on_from_the_bundled_weights(trained: Path) -> None:
    for name in ("unet_0", "unet_1"):
        first = load_weights(TrainingDirectory(trained / "work_0").weights(name)).tensors
        last = load_weights(TrainingDirectory(trained / "emoji").weights(name)).tensors
        for key, tensor in first.items():  # eight bits twice: less than a step of the largest one
            step = tensor.abs().max() / 127 if tensor.ndim > 1 else tensor.abs().max() / 1000
            assert (tensor - last[key].float()).abs().max() <= step + 1e-6
        fresh = Imagen.from_parameters(trained / "p0").stages[0].state_dict()
        if name == "unet_0":
            assert any(not torch.allclose(fresh[key], first[key], atol=1e-4) for key in first)
    runs = pretrain_cascade.runs_of(trained / "emoji")
    assert [run["seed"] for run in runs] == [0, 1]
    assert runs[1]["images"] == {"unet_0": 16, "unet_1": 16} and runs[1]["minutes"] >= 0


@pytest.mark.parametrize(
    ("name", "sizes"), [("emoji", ((64, 64),)), ("scenes", ((32, 32), (64, 64)))]
)
def test_the_first_run_takes_the_recipe(
    tmp_path: Path, name: str, sizes: tuple[tuple[int, int], ...]
) -> None:
    options = pretrain_cascade.parse([name, "--minutes", "9", "--out", str(tmp_path)])
    imagen, training, _ = pretrain_cascade.parameters_of(options, run=2)
    assert imagen.image_sizes == sizes and training.minutes == 9 and training.seed == 2
    Imagen(imagen)


def test_weights_of_another_cascade_are_refused(trained: Path, emoji_folder: Path) -> None:
    other = parameters(trained / "other", 1e-3)
    path = other / "unet_0.json"
    stage = json.loads(path.read_text("utf-8"))
    stage["unet"]["dim"] = 24
    path.write_text(json.dumps(stage), "utf-8")
    arguments = ["emoji", "--steps", "2", "--parameters", str(other), "--data", str(emoji_folder)]
    with pytest.raises(UserError, match="was trained with another configuration"):
        pretrain_cascade.main([*arguments, "--out", str(trained / "emoji")])


def test_the_card_has_runs_licenses_and_measured_figures(
    trained: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composed_judge, "STEPS", 2)
    monkeypatch.setattr(composed_judge, "AMONG", 8)
    directory = trained / "emoji"
    assert "Not measured yet" in (directory / "README.md").read_text("utf-8")
    arguments = ["--quick", "--results", str(tmp_path), "--only", "emoji"]
    (row,) = bundled.main(
        [*arguments, "--directory", str(directory), "--sheets", str(tmp_path / "sheets")]
    )
    assert row["training"]["n"] == 4 and 0 < row["first_image_seconds"] < 600
    assert row["training"]["copies_real"] == 1.0  # an image of the training set is its own copy
    assert {path.name for path in (tmp_path / "sheets").iterdir()} == {
        f"emoji_{name}.png"
        for name in ("training", "training_nearest", "held_out", "held_out_nearest")
    }
    table = bundled.figures_of("emoji", bundled.fingerprint_of(directory), tmp_path)
    assert "| training captions: fully correct | 4 |" in table
    assert "Google LLC" in (directory / "LICENSES.txt").read_text("utf-8")
    assert "openmoji" not in (directory / "LICENSES.txt").read_text("utf-8")


def test_the_judge_of_compositions_learns_to_answer(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composed_judge, "BATCH", 32)
    monkeypatch.setattr(composed_judge, "WIDTHS", (8, 16, 16, 16, 16))
    monkeypatch.setattr(composed_judge, "AMONG", 8)
    emoji = ComposedEmoji(here, "all")
    judge = composed_judge.train_composed_judge(emoji, 60)
    samples = composed_judge.draw(emoji, 100, "fresh")
    images = bundled.stack_images(samples)
    right = composed_judge.judged(judge, images, samples, emoji)
    others = Random(0).sample(samples, len(samples))
    shuffled = composed_judge.judged(judge, images, others, emoji)
    assert right["background"] > 0.6 > shuffled["background"]
    assert right["name"] > 3 * shuffled["name"]


def test_scenes_are_scored_with_their_relation(tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    pretrain_cascade.main(
        ["scenes", "--steps", "2", "--parameters", str(parameters(tmp_path / "p", 1e-3)),
         "--out", str(out), "--work", str(tmp_path / "work"), "--device", "cpu"]
    )  # fmt: skip
    imagen = Imagen.from_directory(out)
    row = bundled.score_scenes(imagen, 4, None)["held_out"]
    assert row["real"]["fully_correct"] == 1.0 and {"kind", "relation"} <= row["real"].keys()
    assert row["generated"]["fully_correct"] < 1.0


@pytest.mark.parametrize("directory", BUNDLED, ids=lambda path: path.name)
def test_a_bundled_cascade_is_small_loads_and_has_a_card(directory: Path) -> None:
    sizes = [path.stat().st_size for path in ROOT.glob("pretrained/*/state_dicts/*")]
    assert max(sizes) <= LARGEST_FILE and sum(sizes) <= LARGEST_TOGETHER
    Imagen.from_directory(directory)
    card = (directory / "README.md").read_text("utf-8")
    assert "Not measured yet" not in card and "## Limits" in card
    assert "/home" not in (directory / "parameters" / "data.json").read_text("utf-8")
