"""Edited images made again from their own PNG and the images that they were made of."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from minimagen.cli import given, inference
from minimagen.cli.given import image_of
from minimagen.storage.metadata import EXACT, Given, read_generation, read_text, save_png

Refused = Callable[..., str]
pytestmark = pytest.mark.usefixtures("one_thread")
EDITS = {
    "image to image": ["--INIT_IMAGE", "mine/given.png", "--STRENGTH", "0.7"],
    "inpainting": ["--INIT_IMAGE", "mine/given.png", "--MASK", "mine/mask.png", "--RESAMPLE", "2"],
    "upscale": ["--UPSCALE", "mine/given.png"],
    "variations": ["--INIT_IMAGE", "mine/given.png", "--VARIATIONS", "2", "-ar", "2"],
}
GIVEN = {
    "inpainting": EDITS["inpainting"][:4],
    "upscale": EDITS["upscale"],
}  # others: the first two


def edited(kind: str) -> Path:
    """Return the last image of an edit."""
    argv = ["-c", "a red star", "-t", "2", "--DEVICE", "cpu", "--SEED", "3", "-o", "out"]
    assert inference.entry([*argv, *EDITS[kind]]) == 0
    return sorted(Path("out/generated_images").iterdir())[-1]


@pytest.fixture
def files(trained: Path) -> None:
    Path("mine").mkdir()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save("mine/given.png")
    Image.new("RGB", (32, 32), "red").save("other.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 20, 20))
    mask.save("mine/mask.png")


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.usefixtures("files")
def test_an_edited_image_is_made_again_to_the_bit_of_what_was_given(
    kind: str, refused: Refused
) -> None:
    made = edited(kind)
    own = GIVEN.get(kind, EDITS[kind][:2])
    again = ["--FROM_IMAGE", str(made), "--DEVICE", "cpu", "-o", "again"]
    names = [Path(path).name for path in own[1::2]]
    refused(inference.entry, again, own[0], *names)
    assert inference.entry([*again, *own]) == 0
    assert Path("again/generated_images/image_0.png").read_bytes() == made.read_bytes()


@pytest.mark.usefixtures("files")
def test_a_given_image_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    monkeypatch.setattr(given, "image_of", lambda path: decoded.append(path) or image_of(path))
    made = edited("inpainting")
    files = [Path("mine/given.png"), Path("mine/mask.png")]
    assert decoded == files
    again = ["--FROM_IMAGE", str(made), *GIVEN["inpainting"], "--DEVICE", "cpu", "-o", "again"]
    assert inference.entry(again) == 0
    assert decoded == files * 2


@pytest.mark.usefixtures("files")
def test_other_images_than_those_of_the_edit_are_refused(refused: Refused) -> None:
    again = ["--FROM_IMAGE", str(edited("inpainting")), "--INIT_IMAGE"]
    image, mask = EDITS["inpainting"][1], EDITS["inpainting"][3]
    refused(inference.entry, [*again, "other.png", "--MASK", mask], "other pixels than 'given.png'")
    refused(inference.entry, [*again, image, "--MASK", "other.png"], "other pixels than 'mask.png'")
    refused(inference.entry, [*again, image], "--MASK 'mask.png'")
    refused(inference.entry, [*again[:2], "--UPSCALE", image], "--INIT_IMAGE 'given.png'")
    refused(inference.entry, [*again, image, "--VARIATIONS", "2"], "leave out --VARIATIONS")


@pytest.mark.usefixtures("files")
def test_what_is_typed_beside_an_edited_image_is_changed(refused: Refused) -> None:
    made = edited("upscale")
    again = ["--FROM_IMAGE", str(made), "--UPSCALE", "mine/given.png", "--DEVICE", "cpu"]
    refused(inference.entry, [*again, "--STOP_STAGE", "0"], "--STOP_STAGE 0")
    assert inference.entry([*again, "--STOP_STAGE", "1", "-o", "same"]) == 0
    assert Path("same/generated_images/image_0.png").read_bytes() == made.read_bytes()
    plain = ["-c", "a red star", "-t", "1", "--DEVICE", "cpu", "-o", "plain"]
    assert inference.entry(plain) == 0
    path = "plain/generated_images/image_0.png"
    argv = ["--FROM_IMAGE", path, "--INIT_IMAGE", "other.png"]
    refused(inference.entry, argv, "without such an image", "--INIT_IMAGE other.png")


@pytest.mark.usefixtures("files")
def test_an_edited_image_says_what_was_done_and_names_no_folder() -> None:
    made = edited("inpainting")
    text = read_text(made)
    assert "mine" not in str(text)
    assert (
        "Denoising strength: 1, Edit: inpainting, Init image: given.png, Mask: mask.png"
        in (text["parameters"])
    )
    kept = read_generation(made).given
    assert json.loads(Path("out/request.json").read_text())["given"] == {
        name: image.model_dump() for name, image in kept.items()
    }
    with Image.open("mine/given.png") as image:
        image.save("copy.bmp")  # other bytes, the same pixels
        assert kept["init_image"].sha256 != Given.of("", image.convert("L")).sha256
    with Image.open("copy.bmp") as image:
        assert kept["init_image"] == Given.of("given.png", image)


def test_transparent_and_palette_images_have_digests_of_their_colors() -> None:
    images = [Image.new("RGBA", (2, 2), color) for color in ("#f000", "#0f00", "#f00f")]
    palettes = [Image.new("RGB", (2, 2), color).quantize() for color in ("red", "lime")]
    assert len({Given.of("", image).sha256 for image in (*images, *palettes)}) == 4


@pytest.mark.usefixtures("files")
def test_what_an_image_says_of_its_edit_is_checked(refused: Refused) -> None:
    generation = read_generation(edited("image to image"))
    older = generation.replace(given={})
    save_png(Path("older.png"), Image.new("RGB", (4, 4)), older)
    argv = ["--FROM_IMAGE", "older.png", "--INIT_IMAGE", "mine/given.png"]
    refused(inference.entry, argv, "does not say of which")
    late = "only an upscale"
    for changes, words in (
        ({"first": 1}, late),
        ({"edit": {"kind": "upscale"}}, late),
        ({"edit": {"kind": "magic"}}, "edit.kind"),
    ):
        values = json.loads(generation.model_dump_json()) | changes
        chunks = PngInfo()
        chunks.add_itxt(EXACT, json.dumps(values))
        Image.new("RGB", (4, 4)).save("false.png", pnginfo=chunks)
        refused(inference.entry, ["--FROM_IMAGE", "false.png", *argv[2:]], "false.png", words)
