"""Images made again from their own PNG, stopped runs continued, options in a captions file."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minimagen.cli import export, inference
from minimagen.imagen import Imagen
from minimagen.storage.files import read_lines
from minimagen.storage.metadata import parameters_text, read_generation, read_text

Refused = Callable[..., str]
pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ["-t", "2", "--DEVICE", "cpu"]


def run(*argv: str) -> Path:
    """Run inference.py; return its output directory."""
    assert inference.entry([*argv]) == 0
    return Path(argv[argv.index("-o") + 1])


def images(output: Path) -> list[Path]:
    rows = [json.loads(line) for line in read_lines(output / "images.jsonl")[:-1]]
    return [output / "generated_images" / row["file_name"] for row in rows]


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_lines(output / "images.jsonl")[:-1]]


def difference(a: Path, b: Path) -> int:
    with Image.open(a) as one, Image.open(b) as other:
        return max(abs(x - y) for x, y in zip(one.tobytes(), other.tobytes(), strict=True))


@pytest.fixture
def several(trained: Path) -> Path:
    """Images of captions of different lengths, three in a batch, with settings of their own."""
    lines = [
        "a red star",
        "a large blue ring on a green background " * 3,
        "a square -ng 'a circle' --seed 7 --guidance 2",
        "a dot -t 1,3",
    ]
    Path("c.txt").write_text("\n".join(lines) + "\n")
    return run("-c", "c.txt", "-n", "2", "-b", "3", "-o", "several", "--SEED", "11", *QUICK)


def test_an_image_is_made_again_to_the_bit_from_its_own_png(several: Path) -> None:
    """The directory is found by the hash of its weights; the file is the same, byte by byte."""
    for i, path in enumerate(images(several)):
        again = run("--FROM_IMAGE", str(path), "-o", f"again{i}", "--DEVICE", "cpu")
        assert images(again)[0].read_bytes() == path.read_bytes()


def test_an_image_is_made_again_in_its_own_precision(trained: Path) -> None:
    first = run("-c", "a red star", "--SEED", "3", "--PRECISION", "fp32", "-o", "one", *QUICK)
    again = run("-fi", str(images(first)[0]), "-o", "again", "--DEVICE", "cpu")
    assert images(again)[0].read_bytes() == images(first)[0].read_bytes()
    other = run("-fi", str(images(first)[0]), "-pr", "bf16", "-o", "other", "--DEVICE", "cpu")
    assert [row["precision"] for row in (*rows(again), *rows(other))] == ["fp32", "bf16"]


def test_the_batch_changes_an_image_by_no_more_than_rounding(trained: Path) -> None:
    argv = ["-c", "a red star", "-n", "7", "--SEED", "0", "-d", str(trained), *QUICK]
    argv += ["--PRECISION", "fp32"]  # bfloat16 rounds more coarsely
    one, seven, all_ = (run(*argv, "-b", str(b), "-o", f"b{b}") for b in (1, 3, 64))
    for a, b, c in zip(images(one), images(seven), images(all_), strict=True):
        assert max(difference(a, b), difference(a, c)) <= 1


def test_a_size_of_batches_that_is_typed_takes_the_place_of_the_images_own(several: Path) -> None:
    again = run("-fi", str(images(several)[4]), "-b", "1", "-o", "x", "--DEVICE", "cpu")
    assert [row["batch"]["size"] for row in rows(again)] == [1]


def test_what_is_typed_beside_an_image_is_changed_and_all_else_is_kept(several: Path) -> None:
    path = images(several)[4]
    again = run("-fi", str(path), "-g", "3", "-c", "a blue star", "-o", "x", "--DEVICE", "cpu")
    before, after = read_generation(path), read_generation(images(again)[0])
    assert [stage["guidance_scale"] for stage in after.stages] == [3.0, 3.0]
    assert (after.text, after.seed, after.negative) == ("a blue star", 7, "a circle")
    unchanged = {"timesteps", "sampler", "thresholding", "aug_level"}
    for old, new in zip(before.stages, after.stages, strict=True):
        assert {k: old[k] for k in unchanged} == {k: new[k] for k in unchanged}


def test_a_line_of_captions_sets_options_for_its_own_images(several: Path) -> None:
    found = rows(several)
    assert [row["seed"] for row in found] == [11, 12, 13, 14, 7, 8, 17, 18]
    assert [row["negative"] for row in found] == [None] * 4 + ["a circle"] * 2 + [None] * 2
    scales = [{stage["guidance_scale"] for stage in row["stages"]} for row in found]
    assert scales[4] == {2.0} and scales[0] == scales[7] != {2.0}
    assert [stage["timesteps"] for stage in found[6]["stages"]] == [1, 3]
    assert [stage["timesteps"] for stage in found[0]["stages"]] == [2, 2]
    assert [row["batch"]["size"] for row in found] == [3, 3, 3, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", "caption;seed;steps;guidance\na star, red;5;;4\na ring;;;\n"),
        ("c.csv", 'caption,seed,g\n"a star, red",5,4\na ring,,\n'),
        ("c.tsv", "caption\tseed\tg\na star, red\t5\t4\na ring\t\t\n"),
        (
            "c.jsonl",
            '{"text": "a star, red", "seed": 5, "guidance_scale": 4.0}\n{"prompt": "a ring"}',
        ),
    ],
)
def test_a_table_of_captions_has_options_as_columns(trained: Path, name: str, text: str) -> None:
    Path(name).write_text(text)
    star, ring = rows(run("-c", name, "-o", "out", "--SEED", "3", *QUICK))
    assert (star["text"], star["seed"], ring["text"], ring["seed"]) == (
        "a star, red",
        5,
        "a ring",
        4,
    )
    assert star["stages"][0]["guidance_scale"] == 4.0 != ring["stages"][0]["guidance_scale"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.txt", "a star\na ring --sede 7", ["line 2", "--sede", "did you mean '--SEED'"]),
        ("c.txt", "a star --seed x", ["line 1", "--SEED", "'x'"]),
        ("c.txt", "--seed 7", ["line 1", "no caption"]),
        ("c.txt", "-g 4", ["line 1", "no caption"]),
        ("c.txt", 'a star --negative "x', ["line 1", "quotation"]),
        ("c.csv", "caption,sead\na,1\n", ["line 2", "did you mean '--SEED'"]),
        ("c.csv", "name,seed\na,1\n", ["caption, text, prompt", "['name', 'seed']"]),
        ("c.csv", "caption,seed\na,1,2\n", ["line 2", "more or fewer values"]),
        ("c.jsonl", "[1]", ["line 1", "JSON object"]),
        ("c.jsonl", '{"text": 3}', ["line 1", "caption is 3"]),
        ("c.jsonl", "{", ["line 1 is not JSON"]),
    ],
)
def test_a_mistake_in_a_file_of_captions_names_its_line(
    trained: Path, refused: Refused, name: str, text: str, words: list[str]
) -> None:
    Path(name).write_text(text)
    refused(inference.entry, ["-c", name, *QUICK], *words)


def test_seeds_are_a_list_with_ranges(trained: Path, refused: Refused) -> None:
    found = rows(run("-c", "a star", "--SEEDS", "1,5,10-12", "-o", "out", *QUICK))
    assert [row["seed"] for row in found] == [1, 5, 10, 11, 12]
    for bad in ("x", "1-", "5-3", "1,,2", "-1"):
        refused(inference.entry, ["-c", "a", f"--SEEDS={bad}"], "--SEEDS must")
    refused(inference.entry, ["-c", "a", "--SEEDS", "1", "-n", "2"], "--IMAGES_PER_CAPTION")


def interrupt_before_batch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sample_batches, batches = Imagen.sample_batches, iter(range(100))

    def spy(self: Imagen, *arguments: Any, **named: Any) -> Iterator[Any]:
        if next(batches) == number:
            os.kill(os.getpid(), signal.SIGINT)
        yield from sample_batches(self, *arguments, **named)

    monkeypatch.setattr(Imagen, "sample_batches", spy)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_continued_run_ends_as_the_uninterrupted_one(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: int
) -> None:
    """Also where the killed run had written an image that its list does not have yet."""
    argv = ["-c", "a red star", "-n", "10", "-b", "3", "--SEED", "5", "-d", str(trained), *QUICK]
    whole = run(*argv, "-o", "whole")
    with monkeypatch.context() as patch:
        interrupt_before_batch(2, patch)
        assert inference.entry([*argv, "-o", "stopped"]) == 130
    stopped = Path("stopped")
    assert len(images(stopped)) == 6
    if lost:
        lines = read_lines(stopped / "images.jsonl")
        (stopped / "images.jsonl").write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])
    command = next(x for x in capsys.readouterr().out.splitlines() if "--CONTINUE" in x)
    assert inference.entry(["--CONTINUE", command.split()[-1]]) == 0
    assert [p.read_bytes() for p in images(stopped)] == [p.read_bytes() for p in images(whole)]
    for name in ("captions.txt", "images.jsonl", "grid.png"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("kind", ["inpainting", "upscale"])
def test_a_continued_run_has_the_image_that_was_given(
    trained: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, kind: str
) -> None:
    pixels = Image.effect_noise((32, 32), 60).convert("RGB")
    pixels.save("given.png")
    Image.linear_gradient("L").resize((32, 32)).point(lambda v: 255 * (v > 99)).save("mask.png")
    edits = {
        "inpainting": ["--INIT_IMAGE", "given.png", "--MASK", "mask.png", "--STRENGTH", "0.7"],
        "upscale": ["--UPSCALE", "given.png"],
    }
    argv = ["-c", "a red star", "-n", "5", "-b", "2", "--SEED", "5", "-d", str(trained), *QUICK]
    whole = run(*argv, *edits[kind], "-o", "whole")
    with monkeypatch.context() as patch:
        interrupt_before_batch(1, patch)
        assert inference.entry([*argv, *edits[kind], "-o", "stopped"]) == 130
    for file in ("given.png", "mask.png"):
        Path(file).unlink()
    stopped = Path("stopped")
    assert len(images(stopped)) == 2
    assert inference.entry(["--CONTINUE", "stopped"]) == 0
    assert [p.read_bytes() for p in images(stopped)] == [p.read_bytes() for p in images(whole)]
    (stopped / "given.safetensors").write_bytes(b"other")
    refused(inference.entry, ["--CONTINUE", "stopped"], "given.safetensors is missing or damaged")


def test_what_cannot_be_continued_is_one_line(trained: Path, refused: Refused) -> None:
    refused(inference.entry, ["--CONTINUE", "nowhere"], "request.json")
    run("-c", "a", "-o", "out", *QUICK)
    refused(inference.entry, ["-co", "out", "-n", "3"], "leave out --IMAGES_PER_CAPTION")
    other = trained / "state_dicts" / "unet_0.best.safetensors"
    (trained / "state_dicts" / "unet_0.safetensors").write_bytes(other.read_bytes() + b" ")
    refused(inference.entry, ["-co", "out"], "not those that out was begun with")


def test_an_image_that_does_not_say_how_it_was_made_is_refused(
    several: Path, refused: Refused
) -> None:
    Image.new("RGB", (4, 4)).save("plain.png")
    refused(inference.entry, ["-fi", "plain.png"], "does not say how it was made")
    run("-c", "a star", "-o", "out", "--NO_METADATA", *QUICK)
    assert read_text(images(Path("out"))[0]) == {}
    refused(inference.entry, ["-fi", "nowhere.png"], "no such file: nowhere.png")
    Path("text.png").write_text("not an image")
    refused(inference.entry, ["-fi", "text.png"], "text.png is not an image")
    Path("training_mine").rename("elsewhere")
    assert inference.entry(["-fi", str(images(several)[0]), "-o", "found", "--DEVICE", "cpu"]) == 0
    (Path("elsewhere") / "state_dicts" / "unet_0.safetensors").unlink()
    refused(inference.entry, ["-fi", str(images(several)[0])], "no model here has the weights")


def test_metadata_is_what_other_programs_read_and_names_no_folder(several: Path) -> None:
    for path in images(several):
        generation = read_generation(path)
        text = read_text(path)
        assert text["parameters"] == parameters_text(generation)
        assert str(several.parent.resolve()) not in str(text) and "training_mine" not in str(text)
    lines = parameters_text(read_generation(images(several)[4])).splitlines()
    assert lines[:2] == ["a square", "Negative prompt: a circle"]
    model = read_generation(images(several)[4]).model
    assert lines[2].startswith(
        "Steps: 2, Sampler: dpm++, CFG scale: 2, Seed: 7, Size: 32x32, "
        f'Model hash: {model[:10]}, Stage steps: "2,2", Stage CFG: "2,2"'
    )


def test_an_exported_model_samples_the_same_image_without_training_json(
    trained: Path, refused: Refused
) -> None:
    assert export.entry([str(trained), "model"]) == 0
    assert sorted(p.name for p in Path("model").iterdir()) == [
        "README.md",
        "parameters",
        "state_dicts",
    ]
    assert not (Path("model") / "parameters" / "training.json").exists()
    argv = ["-c", "a red star", "--SEED", "4", *QUICK]
    one, other = run(*argv, "-d", str(trained), "-o", "a"), run(*argv, "-d", "model", "-o", "b")
    assert images(one)[0].read_bytes() == images(other)[0].read_bytes()  # with the model's hash
    refused(export.entry, [str(trained), "model"], "model exists and is not empty")
    shutil.rmtree(trained)
    again = run("--FROM_IMAGE", str(images(one)[0]), "-o", "again", "--DEVICE", "cpu")
    assert images(again)[0].read_bytes() == images(one)[0].read_bytes()
    same = Imagen.from_pretrained("model").sample("a red star", seed=4, timesteps=2, progress=False)
    with Image.open(images(one)[0]) as saved:
        assert difference_of(saved, same) <= 1


def difference_of(a: Image.Image, b: Image.Image) -> int:
    return max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True))


def test_an_image_made_again_takes_one_caption_however_it_is_given(
    trained: Path, refused: Refused
) -> None:
    first = run("-c", "a red star", "--SEED", "3", "-o", "one", *QUICK)
    argv = ["-fi", str(images(first)[0]), "--DEVICE", "cpu"]
    Path("one.txt").write_text("a blue ring\n")
    Path("two.txt").write_text("a blue ring\na red star\n")
    assert rows(run(*argv, "-c", "one.txt", "-o", "again"))[0]["text"] == "a blue ring"
    refused(inference.entry, [*argv, "-c", "two.txt"], "one caption")
    refused(inference.entry, [*argv, "-c", " "], "--CAPTIONS is blank")


def test_the_weights_of_an_image_are_those_it_was_made_with(trained: Path) -> None:
    """Also where the directory is given."""
    first = run("-c", "a red star", "--SEED", "3", "--WEIGHTS", "best", "-o", "one", *QUICK)
    again = run("-fi", str(images(first)[0]), "-d", str(trained), "-o", "again", "--DEVICE", "cpu")
    assert rows(again)[0]["weights"] == rows(first)[0]["weights"] == ["best", "best"]
    assert images(again)[0].read_bytes() == images(first)[0].read_bytes()


@pytest.mark.parametrize("flags", [["--SWEEP", "guidance=1,4"], ["--FILM"], ["--SEEDS", "1,2"]])
def test_what_an_image_made_again_has_no_use_for_is_refused(
    trained: Path, refused: Refused, flags: list[str]
) -> None:
    refused(inference.entry, ["--FROM_IMAGE", "image.png", *flags], "leave out", flags[0])


def test_a_setting_that_its_stages_do_not_have_is_refused(several: Path, refused: Refused) -> None:
    again = ["--FROM_IMAGE", str(images(several)[0]), "--TOP_K", "5", "-o", "again"]
    refused(inference.entry, again, "--TOP_K is no setting of the stages that made the image")


@pytest.mark.parametrize(
    ("line", "text", "own"),
    [
        ("a park --negative dog", "a park", {"NEGATIVE": "dog"}),
        ("a red star -sa ddim -th static", "a red star", {"SAMPLER": "ddim"}),
        ("a red star -g\t4", "a red star", {"GUIDANCE_SCALE": 4.0}),
        ("a t-shirt - n o t e s -g -", "a t-shirt - n o t e s -g -", {}),
    ],
)
def test_short_flags_and_words_that_end_like_them(
    here: Path, line: str, text: str, own: dict[str, Any]
) -> None:
    Path("c.txt").write_text(line)
    (caption,) = inference.read_captions("c.txt")
    assert caption.text == text and own.items() <= caption.own.items()
    assert bool(caption.own) == bool(own)
