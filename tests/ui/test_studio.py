"""What the page does, without the page."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from minimagen.cli import inference
from minimagen.editing import as_mask, as_tensor, film
from minimagen.errors import UserError
from minimagen.generating import Edit
from minimagen.imagen import Imagen
from minimagen.stages.diffusion import DiffusionStage
from minimagen.storage.image_files import MARGIN, SMALLEST
from minimagen.storage.metadata import Edited, Whole, read_generation
from minimagen.ui.form import Form, fields_of, not_filled, numbers
from minimagen.ui.runs import log_lines, losses, state
from minimagen.ui.stream import Progress, Result
from minimagen.ui.studio import Studio

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "tests" / "golden" / "trained"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """The cascade of the golden tests: two stages, 16 and 32 px."""
    return Studio(tmp_path, [ROOT / "tests" / "golden" / "trained"], "cpu")


def last(items: Iterator[Progress | Result]) -> Result:
    *_, result = items
    assert isinstance(result, Result)
    return result


FORM = Form("trained", "a  red\nstar", seed=3, count=2, steps="2", guidance="2,1")


def test_images_are_on_disk_with_their_parameters(studio: Studio) -> None:
    result = last(iter(studio.generate(FORM)))
    made = [read_generation(path) for path in result.paths]
    assert [(m.text, m.seed) for m in made] == [("a red star", 3), ("a red star", 4)]
    assert [stage["guidance_scale"] for stage in made[0].stages] == [2.0, 1.0]
    again = last(iter(studio.generate(FORM)))
    assert [p.read_bytes() for p in again.paths] == [p.read_bytes() for p in result.paths]
    assert again.paths[0].parent != result.paths[0].parent  # nothing is overwritten


def test_progress_shows_stage_and_step_in_order(studio: Studio) -> None:
    *steps, result = studio.generate(FORM)
    texts = [item.text for item in steps if isinstance(item, Progress)]
    assert isinstance(result, Result) and texts == sorted(texts)
    assert texts[0].startswith("Stage 0: step 1 of 2") and len(texts) >= 2


def test_closing_the_stream_stops_sampling_and_the_next_one_works(studio: Studio) -> None:
    items = iter(studio.generate(Form("trained", "a star", seed=1, steps="200")))
    assert isinstance(next(items), Progress)
    items.close()  # type: ignore[attr-defined]  # a generator
    assert not list(studio.root.rglob("image_*.png"))
    assert last(iter(studio.generate(FORM))).paths


def test_what_is_finished_when_sampling_is_stopped_is_kept(studio: Studio) -> None:
    items = iter(studio.generate(Form("trained", "a star", seed=1, count=10, steps="20,2")))
    while len(kept := list(studio.root.rglob("image_*.png"))) < 8:
        next(items)
    items.close()  # type: ignore[attr-defined]  # a generator
    assert len(kept) == len(list(studio.root.rglob("image_*.png"))) == 8


def test_an_image_to_begin_with_is_described_in_the_parameters(studio: Studio) -> None:
    def edit(_: object) -> Edit:
        return Edit(init_images=torch.zeros(1, 3, 32, 32), strength=0.5)

    result = last(iter(studio.generate(FORM, edit)))
    assert read_generation(result.paths[0]).edit == Edited(
        kind="image to image", strength=0.5, resample=1
    )


def test_a_sweep_is_a_sheet_of_all_combinations(studio: Studio) -> None:
    axes = {"guidance_scale": [1, 3], "timesteps": [1, 2, 3]}
    result = last(iter(studio.sweep(FORM, axes)))
    assert len(result.paths) == 6 and result.sheet is not None
    made = [read_generation(path) for path in result.paths]
    assert [m.stages[0]["timesteps"] for m in made] == [1, 2, 3, 1, 2, 3]
    assert len({m.seed for m in made}) == 1
    with pytest.raises(UserError, match="100 images; give values for 1 to 64"):
        studio.sweep(FORM, {"seed": list(range(100))})


def test_a_sweep_of_seeds_has_the_seed_of_its_first_image(studio: Studio) -> None:
    result = last(iter(studio.sweep(FORM, {"seed": [8, 9]})))
    assert result.seed == 8 and [read_generation(path).seed for path in result.paths] == [8, 9]


def test_what_stages_have_to_say_of_images_comes_with_them(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a film, and nothing of images before that were stopped."""
    sample = DiffusionStage.sample
    said: list[str] = []

    def noted(stage: DiffusionStage, *given: Any, **named: Any) -> Any:
        said.append(f"stage {stage.index} burns")
        return sample(stage, *given, **named)

    def notes(stage: DiffusionStage) -> list[str]:
        own = [each for each in said if each.startswith(f"stage {stage.index}")]
        said[:] = [each for each in said if each not in own]
        return own

    monkeypatch.setattr(DiffusionStage, "sample", noted)
    monkeypatch.setattr(DiffusionStage, "notes", notes)
    items = iter(studio.generate(replace(FORM, steps="200")))
    assert isinstance(next(items), Progress)
    items.close()  # type: ignore[attr-defined]  # a generator
    assert said == ["stage 0 burns"]
    for images in (studio.generate(FORM), studio.film(FORM)):
        assert last(iter(images)).notes == ("stage 0 burns", "stage 1 burns")


def test_a_device_without_memory_is_one_line(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Imagen, "sample_batches", full)
    with pytest.raises(UserError, match="not enough memory: ask for fewer"):
        last(iter(studio.generate(FORM)))


def test_every_stage_is_on_a_sheet_beside_interpolation(studio: Studio) -> None:
    result = last(iter(studio.stages(FORM)))
    (sheet,) = result.paths
    assert (result.sheet, result.seed, sheet.name) == (sheet, 3, "stages.png")
    with Image.open(sheet) as image:
        assert image.width > 3 * 32  # 16 px, those enlarged, 32 px


def made_again(path: Path, *given: str) -> Path:
    """Make a file of the page again by the command; return the directory."""
    output = path.parents[1] / "again"
    argv = ["--FROM_IMAGE", str(path), "-d", str(TRAINED), "-o", str(output), "--DEVICE", "cpu"]
    assert inference.entry([*argv, *given]) == 0
    return output


def test_strips_and_animations_of_the_page_are_made_again_by_the_command(studio: Studio) -> None:
    streams = studio.film(FORM), studio.interpolate(FORM, "", 3, last_seed=9)
    for stream in (*streams, studio.interpolate(FORM, "a large blue ring", 3)):
        result = last(iter(stream))
        assert result.sheet is not None and "Steps: 2" in result.parameters
        for path in (result.sheet, result.paths[-2]):
            output = made_again(path)
            assert (output / result.sheet.name).read_bytes() == result.sheet.read_bytes()
            shutil.rmtree(output)


def test_sheets_of_the_page_are_made_again_by_the_command(studio: Studio) -> None:
    axes = {"guidance_scale": [1, 3], "seed": [4, 5, 6]}
    for stream in (studio.stages(FORM), studio.sweep(FORM, axes)):
        sheet = last(iter(stream)).sheet
        assert sheet is not None
        output = made_again(sheet)
        with Image.open(sheet) as ours, Image.open(output / sheet.name) as theirs:
            box = (0, 0, ours.width, MARGIN + SMALLEST)  # the labels below the images may be others
            assert ours.crop(box).tobytes() == theirs.crop(box).tobytes()
        shutil.rmtree(output)


MASK = Image.new("L", (20, 30))
MASK.paste(255, (5, 5, 15, 25))
GIVEN = Image.linear_gradient("L").resize((20, 30)).convert("RGBA")


@pytest.mark.parametrize("name", ["init_image", "mask", "upscale"])
def test_an_edit_of_the_page_is_made_again_from_the_images_it_keeps(
    studio: Studio, name: str
) -> None:
    def edit(imagen: Imagen) -> Edit:
        small, size = imagen.config.image_sizes
        if name == "upscale":
            return Edit(low_res=as_tensor([GIVEN], small), first=1)
        mask = as_mask([MASK], size) if name == "mask" else None
        return Edit(as_tensor([GIVEN], size), mask, strength=0.7)

    first = "upscale" if name == "upscale" else "init_image"
    given = {first: GIVEN} | ({"mask": MASK} if name == "mask" else {})
    result = last(iter(studio.generate(FORM, edit, given)))
    folder = result.paths[0].parents[1]
    flags = [x for each in given for x in (f"--{each.upper()}", str(folder / f"{each}.png"))]
    again = made_again(result.paths[1], *flags) / "generated_images" / "image_0.png"
    assert again.read_bytes() == result.paths[1].read_bytes()


def test_only_a_model_of_several_stages_enlarges(studio: Studio) -> None:
    emoji = Studio(studio.root, [ROOT / "pretrained" / "emoji"], "cpu")
    assert studio.enlarges("trained") and not emoji.enlarges("emoji")


def test_an_interpolation_is_frames_a_strip_and_animations(studio: Studio) -> None:
    result = last(iter(studio.interpolate(FORM, "a large blue ring", 3)))
    assert [path.suffix for path in result.paths] == [".png"] * 3 + [".gif", ".webp"]
    assert result.sheet is not None and all(path.is_file() for path in result.paths)
    with pytest.raises(UserError, match="caption is empty"):
        studio.interpolate(FORM, " ", 3)


def test_between_seeds_the_first_frame_is_the_forms_own_image(studio: Studio) -> None:
    frames = last(iter(studio.interpolate(FORM, " ", 3, last_seed=9))).paths[:3]
    images = []
    for seed in (3, 9):
        form = replace(FORM, seed=seed, count=1)
        images.append(last(iter(studio.generate(form))).paths[0])
    for frame, image in zip((frames[0], frames[2]), images, strict=True):
        with Image.open(frame) as one, Image.open(image) as other:
            ends = zip(one.convert("RGB").tobytes(), other.convert("RGB").tobytes(), strict=True)
        assert max(abs(a - b) for a, b in ends) <= 8  # bfloat16 in another batch
    with pytest.raises(UserError, match="not both"):
        studio.interpolate(FORM, "a ring", 3, last_seed=9)


def test_a_film_has_a_frame_for_each_step_and_can_be_stopped(studio: Studio) -> None:
    result = last(iter(studio.film(FORM)))
    assert [path.suffix for path in result.paths] == [".png"] * 5 + [".gif", ".webp"]
    items = iter(studio.film(replace(FORM, steps="500,1")))
    assert isinstance(next(items), Progress)
    items.close()  # type: ignore[attr-defined]  # a generator
    strips = list(studio.root.glob("generated_images_*/film.png"))
    (stopped,) = (path for path in strips if path != result.sheet)  # what was drawn is kept
    assert 1 <= len(list(stopped.parent.glob("frame_*.png"))) < 501
    assert last(iter(studio.generate(FORM))).paths


def test_an_image_names_its_model_and_what_the_form_cannot_say(studio: Studio) -> None:
    made = read_generation(last(iter(studio.generate(FORM))).paths[0])
    assert studio.made_by(made) == "trained"
    assert studio.made_by(made.model_copy(update={"model": "0" * 64})) is None
    trained = studio.trained_settings("trained")
    assert not list(not_filled(made, trained))

    def said(trained: Any = trained, **changes: Any) -> str:
        (line,) = not_filled(made.model_copy(update=changes), trained)
        return line

    later = made.stages[1:]
    assert "give that image too" in said(first=1, stages=later, edit=Edited(kind="upscale"))
    enlarged = made.model_copy(update={"first": 1, "stages": later})
    assert fields_of(enlarged)[4:6] == ["", ""]  # steps of one stage are not those of both
    assert "strip" in said(whole=Whole(kind="film", texts=("a",)))
    assert "another image" in said(None)
    assert "made in fp32" in said(precision="fp32")
    assert "Later stages were left out" in said(stages=made.stages[:1])
    assert fields_of(made.model_copy(update={"stages": made.stages[:1]}), 2)[4:6] == ["", ""]
    burnt = tuple(stage | {"thresholding": "none"} for stage in made.stages)
    assert said(stages=burnt) == "thresholding was none, none: this page has no field for it."


def test_a_model_of_ones_own_comes_before_a_bundled_one_of_its_name(studio: Studio) -> None:
    own = shutil.copytree(studio.models()["trained"], studio.root / "trained")
    assert studio.models() == {"trained": own}


def test_nothing_is_left_of_what_was_cancelled_before_the_first_image(studio: Studio) -> None:
    items = iter(studio.generate(replace(FORM, steps="500,1")))
    assert isinstance(next(items), Progress)
    items.close()  # type: ignore[attr-defined]  # a generator
    assert last(iter(studio.generate(FORM))).paths  # the other one has ended
    assert len(list(studio.root.glob("generated_images_*"))) == 1


def test_a_film_of_weights_that_are_written_meanwhile_names_those_that_made_it(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copytree(studio.models()["trained"], studio.root / "trained")
    _, digest = studio.load("trained")

    def film_and_train(*given: Any, **settings: Any) -> Any:
        for file in (own / "state_dicts").glob("*.safetensors"):
            os.utime(file, (1, 1))  # written anew
        monkeypatch.setattr("minimagen.ui.studio.model_hash", lambda *_: "0" * 64)
        return film(*given, **settings)

    monkeypatch.setattr("minimagen.ui.studio.film", film_and_train)
    assert last(iter(studio.film(FORM))).made[0].model == digest


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Form("trained", " \n"), "caption is empty"),
        (Form("trained", "x" * 100_000), "100000 characters"),
        (Form("../trained", "a star"), "no model '../trained'"),
        (Form("trained", "a star", count=1000), "give 1 to 64"),
        (Form("trained", "a star", steps="many"), "'many'; give numbers"),
        (Form("trained", "a star", steps="nan"), "'nan'; give numbers"),
        (Form("trained", "a star", guidance="1,1e999"), "'1,1e999'; give numbers"),
        (Form("trained", "a star", steps="0"), "timesteps"),
        (Form("trained", "a star", steps="1,2,3"), "3 values for 2 stages"),
    ],
)
def test_what_is_not_valid_is_one_line(studio: Studio, form: Form, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        list(studio.generate(form))
    assert "\n" not in str(error.value)
    assert not list(studio.root.rglob("*.png"))


@pytest.mark.parametrize("caption", ["<script>alert(1)</script>", "\x1b[31m\x00", "' --seed 7"])
def test_hostile_captions_are_captions(studio: Studio, caption: str) -> None:
    form = Form("trained", caption, seed=1, steps="1")
    result = last(iter(studio.generate(form)))
    assert read_generation(result.paths[0]).text == " ".join(caption.split())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"timesteps": "x"}, "timesteps"),
        ({"aug_level": None}, "aug_level"),
        ({"sampler": [1]}, "sampler"),
        ({"sampler": "Euler a"}, "'Euler a', which is not ours"),
    ],
)
def test_parameters_of_another_program_fill_nothing(
    studio: Studio, changed: dict[str, object], words: str
) -> None:
    made = read_generation(last(iter(studio.generate(FORM))).paths[0])
    assert fields_of(made)[4:6] == ["2,2", "2.0,1.0"]
    foreign = made.model_copy(update={"stages": ({**made.stages[0], **changed},)})
    with pytest.raises(UserError, match=words):
        fields_of(foreign)


def test_numbers_are_one_or_a_list() -> None:
    assert numbers("x", "8") == 8 and numbers("x", "2.5, 1") == [2.5, 1]


def test_a_run_in_progress_is_readable(tmp_path: Path) -> None:
    rows = [{"stage": 0, "step": 2, "loss": 0.5, "valid_loss": 0.6}, {"learner": "clip", "step": 1}]
    lines = "\n".join(map(json.dumps, rows)) + '\n{"stage": 0, "st'
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / "training_progress.txt").write_text("begun\n\x1b[31mred")
    drawn = losses(tmp_path)
    assert drawn.count("<circle") == 2  # lines of one point each
    assert ">stage 0</span>" in drawn and ">stage 0, validation</span>" in drawn
    assert log_lines(tmp_path) == "begun\n[31mred"
    assert losses(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("age", "left", "said"),
    [
        (10, 130.0, "stage 0, step 50, about 2 min left."),
        (10, None, "stage 0, step 50."),
        (7200, 130.0, "stage 0, step 50; nothing was logged for 2.0 h."),
    ],
)
def test_the_state_of_a_run_is_a_sentence(
    tmp_path: Path, age: float, left: float | None, said: str
) -> None:
    assert state(tmp_path) == "This run has not begun."
    (tmp_path / "training_progress.txt").write_text("begun\n")
    assert state(tmp_path) == "No step is logged yet."
    row = {"stage": 0, "step": 50, "time": time.time() - age}
    row |= {} if left is None else {"seconds_left": left}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
    assert state(tmp_path) == said
    (tmp_path / "training_progress.txt").write_text("begun\ntraining finished\n")
    assert state(tmp_path) == "Finished."


def test_a_model_that_was_trained_on_is_loaded_again(tmp_path: Path) -> None:
    model = Path(shutil.copytree(ROOT / "tests" / "golden" / "trained", tmp_path / "mine"))
    studio = Studio(tmp_path, [], "cpu")
    first, _ = studio.load("mine")
    assert studio.load("mine")[0] is first
    file = next((model / "state_dicts").glob("*.safetensors"))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    assert studio.load("mine")[0] is not first
