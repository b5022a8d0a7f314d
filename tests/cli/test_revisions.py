"""Parts of a cascade that are named by a repository of the hub, at a revision: owner/name@v1."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5EncoderModel

from minimagen.__main__ import main
from minimagen.autoencoders.build import load
from minimagen.autoencoders.files import save_folder
from minimagen.autoencoders.kl import KLAutoencoder
from minimagen.config import AutoencoderConfig, ImagenConfig
from minimagen.errors import UserError
from minimagen.imagen import Imagen
from minimagen.storage.hub import fetched, name_and_revision
from minimagen.text.files import hub_has
from minimagen.text.names import T5_MINI
from minimagen.text.pretrained import PretrainedEncoder
from tests.cli.fake_hub import Hub, refusal

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = AutoencoderConfig(image_size=16, block_out_channels=(8, 16), norm_num_groups=4)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    fake = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    fetched.cache_clear()
    yield fake
    fetched.cache_clear()


def autoencoder(seed: int) -> KLAutoencoder:
    torch.manual_seed(seed)
    return KLAutoencoder(0, SMALL)


def test_an_autoencoder_of_diffusers_is_that_of_its_revision(hub: Hub) -> None:
    for seed, (revision, folder) in enumerate({"main": "", "v1": "", "v2": "vae"}.items()):
        save_folder(autoencoder(seed), hub.commit("me/vae", revision) / folder)
    for seed, name in enumerate(("me/vae", "me/vae@v1", "me/vae@v2")):
        assert load(name).fingerprint == autoencoder(seed).fingerprint
    with pytest.raises(UserError, match="it has no revision 'v3'"):
        load("me/vae@v3")
    hub.commit("me/empty").mkdir(parents=True)
    with pytest.raises(UserError, match="no autoencoder 'me/empty'"):
        load("me/empty")


def test_a_trained_autoencoder_of_a_repository_is_measured(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    imagen = Imagen(ImagenConfig(autoencoders=(SMALL,)))
    imagen.save_pretrained(hub.commit("me/latents", "v1"))
    hub.commit("me/latents").mkdir()
    assert load("me/latents@v1").fingerprint == imagen.frozen[-1].fingerprint
    asked = ["reconstruct", "me/latents@v1", "--COUNT", "2", "--DEVICE", "cpu"]
    assert main([*asked, "--DATASET", "shapes"]) == 0
    assert "dB (n 2)" in capsys.readouterr().out and Path("reconstructions.png").is_file()
    assert main(asked) == 2
    assert "does not say what it was trained on: give --DATASET" in capsys.readouterr().err


def test_a_text_encoder_is_that_of_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the hub's library is replaced: it looks into its cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub_has.cache_clear()
    cached = tmp_path / "models--me--encoder"
    (cached / "refs").mkdir(parents=True)
    for width, revision in ((8, "main"), (16, "v1")):
        commit = f"{width:040x}"
        (cached / "refs" / revision).write_text(commit)
        config = T5Config(d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        T5EncoderModel(config).save_pretrained(cached / "snapshots" / commit)
        shutil.copy(T5_MINI / "spiece.model", cached / "snapshots" / commit)
    for name, width in (("me/encoder", 8), ("me/encoder@v1", 16), ("me/encoder@main", 8)):
        encoder = PretrainedEncoder(name)
        assert encoder.embed_dim == width == encoder.encode(["a red star"])[0].shape[1]
    names = ("me/encoder", "me/encoder@v1")
    assert len({PretrainedEncoder(name).fingerprint for name in names}) == 2
    with pytest.raises(UserError, match="'me/encoder@v2' is not on this machine"):
        PretrainedEncoder("me/encoder@v2").load()


def test_a_text_encoder_without_the_revision_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise refusal(404, "RevisionNotFound", "Invalid rev id: v9")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    hub_has.cache_clear()
    with pytest.raises(UserError, match="'me/encoder' of the hub has no 'v9'"):
        PretrainedEncoder("me/encoder@v9").load()


def test_a_folder_may_be_called_as_a_revision_is(tmp_path: Path) -> None:
    folder = tmp_path / "owner" / "name@v1"
    folder.mkdir(parents=True)
    assert name_and_revision(folder) == (str(folder), None)
    assert name_and_revision("owner/name@v1") == ("owner/name", "v1")
    assert name_and_revision("owner/name") == ("owner/name", None)
