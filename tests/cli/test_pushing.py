"""Cascades pushed to the hub and fetched from it; folders on disk stand for its commits."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi

from minimagen.__main__ import main
from minimagen.cli import export, inference, train
from minimagen.config import ImagenConfig
from minimagen.errors import UserError
from minimagen.evaluation.figures import figure
from minimagen.imagen import Imagen
from minimagen.storage.card import NO_FIGURES
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.figures import Record, write_record
from minimagen.storage.hub import fetched
from minimagen.storage.model_hash import model_hash
from minimagen.text.names import T5_MINI
from tests.cli.fake_hub import Hub, files, httpx, refusal

Refused = Callable[..., str]
pytestmark = pytest.mark.usefixtures("one_thread")

NO_NETWORK = httpx.ConnectError("[Errno -3] Temporary failure in name resolution")
PROXY = httpx.ProxyError("502 Bad Gateway")
PUBLISHED = {
    "README.md", "parameters/imagen.json", "parameters/unet_0.json", "parameters/unet_1.json",
    "state_dicts/unet_0.safetensors", "state_dicts/unet_1.safetensors",
}  # fmt: skip


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    fake = Hub(tmp_path_factory.mktemp("elsewhere"))
    for name in ("create_repo", "upload_folder", "repo_info"):
        method = getattr(fake, name)
        monkeypatch.setattr(HfApi, name, lambda *a, _method=method, **named: _method(*a, **named))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    fetched.cache_clear()
    yield fake
    fetched.cache_clear()


def pixels(imagen: Imagen) -> bytes:
    return imagen.sample("a red star", seed=4, timesteps=2, progress=False).tobytes()


def changed(imagen: Imagen) -> Imagen:
    with torch.no_grad():
        for parameter in imagen.parameters():
            parameter.mul_(1.1)
    return imagen


def of_someone(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training directory be full of what is not for others."""
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "someone")
    for machine in ("socket.gethostname", "platform.node"):
        monkeypatch.setattr(machine, lambda: "machine-of-someone")
    data = trained / "parameters" / "data.json"
    values = json.loads(data.read_text()) | {"dataset": "/home/someone/photos"}
    data.write_text(json.dumps(values))
    (trained / "notes.txt").write_text("of someone")
    assert {"tmp", "samples", "training_progress.txt", "metrics.jsonl", "environment.json"} <= {
        path.name for path in trained.iterdir()
    }


@pytest.mark.parametrize("public", [False, True])
def test_weights_parameters_and_a_card_are_pushed_and_nothing_of_this_machine(
    trained: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], public: bool,
) -> None:  # fmt: skip
    of_someone(trained, monkeypatch)
    more = ["--PUBLIC"] if public else []
    assert export.entry([str(trained), "model", "--PUSH", "me/mine", *more]) == 0
    assert "https://huggingface.co/me/mine/commit/0" in capsys.readouterr().out
    pushed = files(hub.commit("me/mine"))
    assert pushed.keys() == PUBLISHED
    private = b"someone", str(trained.parent).encode(), str(Path.home()).encode() + b"/"
    for name, path in pushed.items():
        assert [word for word in private if word in path.read_bytes()] == [], name
    assert "`photos`" in pushed["README.md"].read_text()
    assert hub.private == {"me/mine": not public} and hub.asked[0]["exist_ok"]
    assert all("token" not in asked for asked in hub.asked)  # the login's


@pytest.mark.parametrize("public", [False, True])
def test_a_repository_that_is_there_stays_private_or_public(
    trained: Path, hub: Hub, refused: Refused, public: bool
) -> None:
    imagen = Imagen.from_directory(trained)
    imagen.push_to_hub("me/mine", private=not public)
    imagen.push_to_hub("me/mine")
    imagen.push_to_hub("me/mine", private=not public)
    assert export.entry([str(trained), "model", "--PUSH", "me/mine"]) == 0
    assert hub.private == {"me/mine": not public}
    commits = len(list(hub.commit("me/mine").parent.iterdir()))
    found, wanted = ("public", "private") if public else ("private", "public")
    with pytest.raises(UserError, match=f"me/mine exists and is {found}; make it {wanted} in"):
        imagen.push_to_hub("me/mine", private=public)
    if not public:
        assert export.entry([str(trained), "other", "--PUSH", "me/mine", "--PUBLIC"]) == 2
    assert commits == len(list(hub.commit("me/mine").parent.iterdir())) == 4 + 1
    refused(export.entry, [str(trained), "third", "--PUBLIC"], "--PUBLIC belongs to --PUSH")


def test_each_revision_samples_its_own_image_to_the_bit(trained: Path, hub: Hub) -> None:
    imagen = Imagen.from_directory(trained)
    first = pixels(imagen)
    imagen.push_to_hub("me/mine")
    assert pixels(Imagen.from_pretrained("me/mine")) == first
    second = pixels(changed(imagen))
    assert second != first
    imagen.push_to_hub("me/mine")
    assert pixels(Imagen.from_pretrained("me/mine")) == second  # not what was fetched before
    for number, image in enumerate((first, second)):
        assert pixels(Imagen.from_pretrained("me/mine", revision=f"commit_{number}")) == image
        assert pixels(Imagen.from_pretrained(f"me/mine@commit_{number}")) == image


def test_inference_samples_what_the_library_pushed_and_each_revision_of_it(
    trained: Path, hub: Hub, refused: Refused
) -> None:
    imagen = Imagen.from_directory(trained)
    imagen.push_to_hub("me/mine")
    changed(imagen).push_to_hub("me/mine")
    sampling = ["-c", "a red star", "-t", "1", "--SEED", "4", "--DEVICE", "cpu"]
    made = []
    for number, name in enumerate((str(trained), "me/mine@commit_0", "me/mine", "me/mine@main")):
        assert inference.entry([*sampling, "-d", name, "-o", f"out_{number}"]) == 0
        made.append(Path(f"out_{number}/generated_images/image_0.png").read_bytes())
    assert made[0] == made[1] != made[2] == made[3]
    words = "me/mine is no folder here", "it has no revision 'v9'"
    refused(inference.entry, [*sampling, "-d", "me/mine@v9"], *words)
    refused(inference.entry, [*sampling, "--revision", "v9"], "did you mean '--TRAINING_DIRECTORY'")


def test_other_commands_take_a_revision_and_write_nothing_into_its_copy(
    trained: Path, hub: Hub, refused: Refused
) -> None:
    Imagen.from_directory(trained).push_to_hub("me/mine")
    first = "me/mine@commit_0"
    assert export.entry(["-d", first, "model"]) == 0
    assert pixels(Imagen.from_directory("model")) == pixels(Imagen.from_directory(trained))
    tuned = [
        "--FROM",
        first,
        "--DATASET",
        "shapes",
        "--STEPS",
        "1",
        "--OUTPUT",
        "tuned",
        "--VALID_NUM",
        "2",
    ]
    assert train.entry([*tuned, "--BATCH_SIZE", "2", "--DEVICE", "cpu"]) == 0
    assert main(["report", first, "--OUTPUT", "page"]) == 0 and Path("page/report.html").is_file()
    for argv in (["report", first], ["plot", first], ["evaluate", first, "--DATASET", "shapes"]):
        refused(main, argv, "is no folder to write into; give --OUTPUT")
    words = "is no folder to write into; give --SHEET, the PNG to write"
    refused(main, ["clip", first, "--DATASET", "shapes"], words)
    assert {name for p in hub.folder.glob("fetched/*") for name in files(p)} == PUBLISHED


def test_the_card_says_how_to_load_the_repository(trained: Path, hub: Hub) -> None:
    Imagen.from_directory(trained).push_to_hub("me/mine")
    card = (hub.commit("me/mine") / "README.md").read_text()
    assert 'Imagen.from_pretrained("me/mine")' in card
    Imagen.from_directory(trained).push_to_hub("me/mine", readme="my own card")
    assert (hub.commit("me/mine") / "README.md").read_text() == "my own card"


def test_the_card_has_the_figures_of_the_directory_that_was_loaded(trained: Path, hub: Hub) -> None:
    row = figure("distance", "Frechet distance", 12.34, 40)
    found = Record(
        date="2026-11-29 01:00", device="cpu", dataset="photos", split="heldout", features="mine",
        seed=0, sampling=(), figures=(row,), verdicts=(),
        model=model_hash(TrainingDirectory(trained)),
    )  # fmt: skip
    write_record(trained, found)
    imagen = Imagen.from_directory(trained)
    imagen.push_to_hub("me/mine")
    card = (hub.commit("me/mine") / "README.md").read_text()
    assert "| distance: Frechet distance | 12.3 |" in card and NO_FIGURES not in card
    assert 'Imagen.from_pretrained("me/mine")' in card


def test_a_smaller_cascade_replaces_a_larger_one_and_other_files_stay(
    trained: Path, hub: Hub
) -> None:
    imagen = Imagen.from_directory(trained)
    imagen.push_to_hub("me/mine")
    (hub.commit("me/mine") / "LICENSE.txt").write_text("theirs")
    config = ImagenConfig(
        image_sizes=imagen.config.image_sizes[:1], stages=imagen.config.stages[:1],
        text_encoder_name=imagen.config.text_encoder_name,
    )  # fmt: skip
    small = Imagen(config).eval()
    small.push_to_hub("me/mine")
    gone = {"parameters/unet_1.json", "state_dicts/unet_1.safetensors"}
    assert files(hub.commit("me/mine")).keys() == (PUBLISHED - gone) | {"LICENSE.txt"}
    assert pixels(Imagen.from_pretrained("me/mine")) == pixels(small)


def test_a_folder_that_is_called_like_a_text_encoder_is_no_part(trained: Path) -> None:
    Path("t5_mini").mkdir()
    Imagen.from_directory(trained).save_pretrained("shared")
    assert Imagen.from_directory("shared").config.text_encoder_name == "t5_mini"


def test_a_clip_that_reads_a_folder_of_this_machine_is_not_pushed(trained: Path, hub: Hub) -> None:
    clip = {
        "image_size": 16, "embed_dim": 8, "text": {"encoder": str(T5_MINI), "dim": 8, "heads": 2},
        "image": {"dims": [8, 8]},
    }  # fmt: skip
    (trained / "parameters" / "clip.json").write_text(json.dumps(clip))
    imagen = Imagen.from_parameters(trained / "parameters")
    with pytest.raises(UserError, match="a path of this machine; publish that"):
        imagen.push_to_hub("me/mine")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("me/mine", "v9", "me/mine .* it has no revision 'v9'"),
        ("me/other", None, "me/other .* no such repository, or not for this login: log in with"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(
    trained: Path, hub: Hub, name: str, revision: str | None, words: str
) -> None:
    Imagen.from_directory(trained).push_to_hub("me/mine")
    with pytest.raises(UserError, match=words) as error:
        Imagen.from_pretrained(name, revision=revision)
    assert "\n" not in str(error.value) and "Request ID" not in str(error.value)


def test_a_folder_has_no_revision(trained: Path, hub: Hub) -> None:
    for name in (trained, "me/mine@v1", "mine"):
        with pytest.raises(UserError, match="'v2' is no revision of a repository; give owner/name"):
            Imagen.from_pretrained(name, revision="v2")


FAILURES = {
    "no network": (NO_NETWORK, "the hub is not reached ([Errno -3] Temporary failure"),
    "proxy": (PROXY, "the hub is not reached (502 Bad Gateway)"),
    "no rights": (refusal(403, "", "You have no rights"), "403 Forbidden: You have no rights"),
    "no login": (refusal(401, "RepoNotFound"), "not for this login"),
    "disk": (OSError(28, "No space left on device"), "No space left on device"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_where_the_hub_fails_the_commands_say_so_in_one_line(
    trained: Path, hub: Hub, refused: Refused, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    hub.failure, words = FAILURES[kind]
    refused(inference.entry, ["-d", "me/mine", "-c", "a star"], "me/mine is no folder here", words)
    assert export.entry([str(trained), "model", "--PUSH", "me/mine"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: cannot push to me/mine: ") and words in line
    assert ("hf auth login" in line) == (kind in ("no rights", "no login"))
    assert export.entry([str(trained), "model", "--PUSH", "me/mine"]) == 2
    assert capsys.readouterr().err.startswith("error: OUT model exists and is not empty")
    assert export.entry([str(trained), "public", "--PUSH", "me/mine", "--PUBLIC"]) == 2
    assert "push it later: hf upload me/mine public\n" in capsys.readouterr().out
    assert files(Path("model")).keys() == PUBLISHED  # the folder is there to be pushed later


def test_without_a_network_the_hubs_own_library_is_explained(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, tmp_path: Path
) -> None:
    """Nothing of it is replaced here: it looks into its cache, and finds nothing."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    fetched.cache_clear()
    words = "the hub is not reached, and it was not fetched before"
    refused(inference.entry, ["-d", "absent/nothing", "-c", "a star"], words)
    with pytest.raises(UserError, match=words):
        Imagen.from_pretrained("absent/nothing", revision="v1")
