"""Cascades that are shared: a folder, or a repository of the hub, of weights and configuration."""

import tempfile
from pathlib import Path
from typing import Any, Self

from torch import nn

from minimagen.config import ImagenConfig
from minimagen.errors import UserError
from minimagen.foreign import Foreign
from minimagen.storage.card import NO_FACTS, Facts, card
from minimagen.storage.checkpoint import save_weights
from minimagen.storage.directory import (
    Choices,
    TrainingDirectory,
    new_output,
    read_imagen_config,
    write_imagen,
)
from minimagen.storage.figures import figures_text, read_record
from minimagen.storage.files import replacing
from minimagen.storage.hub import KEPT, fetched, is_on_hub, reason
from minimagen.storage.pretrained import Identified, Part, load_learners


class Shared(Foreign, nn.Module):
    """What is saved to a folder or the hub, and loaded from there.

    Attributes:
        config: The whole cascade.
        learners: All that is trained, in order.
        source: The directory whose weights were loaded; its evaluation is for the card.
    """

    config: ImagenConfig
    text_encoder: Any
    learners: list[Identified]
    frozen: list[Part]
    source: Path | None = None

    @classmethod
    def from_parameters(cls, folder: str | Path, text_encoder: Any = None, seed: int = 0) -> Self:
        """Return an untrained cascade from a parameters directory."""
        return cls(read_imagen_config(Path(folder)), text_encoder, seed)

    @classmethod
    def from_directory(
        cls, path: str | Path, text_encoder: Any = None, *, weights: Choices = "final"
    ) -> Self:
        """Return the trained cascade of a directory; ``weights`` are those of ``load_learners``."""
        directory = TrainingDirectory.open(path)
        imagen = cls(read_imagen_config(directory.parameters), text_encoder)
        load_learners(imagen, directory, weights)
        imagen.source = directory.path.resolve()
        return imagen.eval()

    def save_pretrained(self, folder: str | Path, readme: str | None = None) -> Path:
        """Write weights, configuration and a model card; return the folder.

        Args:
            folder: New or empty.
            readme: The model card; by default one of what the weights show, with the figures of
                ``source`` where these were measured of the weights as they are now.

        Raises:
            UserError: The folder has files, or a part of the cascade is a path of this machine.
        """
        return self._saved(folder, readme)

    def _saved(self, folder: str | Path, readme: str | None, name: str | None = None) -> Path:
        """Write what ``save_pretrained`` writes; the card calls it ``name``, else by its folder."""
        record = None if readme or self.source is None else read_record(self.source)
        path = new_output(folder, "model")
        for named in _named(self.config):
            if _is_here(Path(named)):
                raise UserError(
                    f"the cascade is made of {named}, a path of this machine; publish that on the "
                    "hub, and name it so in the parameters"
                )
        write_imagen(path / "parameters", self._measured())
        directory = TrainingDirectory(path)
        for learner in self.learners:
            identity = learner.identity(self.config, self.text_encoder)
            save_weights(
                directory.weights(learner.name),
                learner.state_dict(),
                {"stage": identity.model_dump(mode="json")},
            )
        if readme is None:
            facts = NO_FACTS._replace(figures=figures_text(directory, record))
            readme = self.card(name or path.resolve().name, facts)
        with replacing(path / "README.md") as part:
            part.write_text(readme, "utf-8")
        return path

    def _measured(self) -> ImagenConfig:
        """Return the configuration with what autoencoders measured at the end of their training."""
        own = self.frozen[len(self.frozen) - len(self.config.autoencoders) :]
        return self.config.replace(autoencoders=[part.config for part in own])

    def card(self, name: str, facts: Facts = NO_FACTS) -> str:
        """Return a model card; ``facts`` is what the weights do not show."""
        count = sum(p.numel() for learner in self.learners for p in learner.parameters())
        return card(name, self.config, count, facts)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        weights: Choices = "final",
        **others: Any,
    ) -> Self:
        """Return the cascade of a folder, or of a repository of the Hugging Face hub.

        Args:
            name: A folder that ``save_pretrained`` or ``train.py`` made, or ``owner/name``.
            revision: Branch, tag or commit of the repository; ``owner/name@revision`` is the same.
            weights: ``final``, ``best`` or a step.
            others: None: it is said where what other programs take here belongs.

        Raises:
            UserError: It is neither, or cannot be fetched.
        """
        if others:
            raise UserError(
                f"there is no argument {next(iter(others))!r}; `sample` takes `precision`, and "
                '`to("cuda")` moves the cascade'
            )
        whole = name if revision is None else f"{name}@{revision}"
        if revision is not None and not is_on_hub(whole):
            raise UserError(
                f"{name} with `revision` {revision!r} is no revision of a repository; give "
                "owner/name and a branch, tag or commit"
            )
        return cls.from_directory(whole, weights=weights)

    def push_to_hub(
        self, repository: str, *, private: bool | None = None, readme: str | None = None
    ) -> str:
        """Upload what ``save_pretrained`` writes; return the URL. The token is that of the login.

        The files of an earlier cascade are replaced: its other stages are deleted.

        Args:
            repository: ``owner/name``; it is made where there is none.
            private: Whether it is to be. By default a new one is, and another stays as it is.
            readme: The model card; by default that of ``save_pretrained``.

        Raises:
            UserError: The hub refuses, is not reached, or the repository is there already and is
                not ``private`` as asked for: nothing is uploaded then.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError

        api, kept = HfApi(), list(KEPT)
        with tempfile.TemporaryDirectory() as folder:
            path = self._saved(Path(folder) / "model", readme, repository)
            try:
                api.create_repo(repository, private=private is not False, exist_ok=True)
                if private is not None and api.repo_info(repository).private != private:
                    found, wanted = ("public", "private") if private else ("private", "public")
                    raise UserError(
                        f"{repository} exists and is {found}; make it {wanted} in its settings on "
                        "the hub first"
                    )
                done = api.upload_folder(
                    repo_id=repository, folder_path=path, allow_patterns=kept, delete_patterns=kept
                )
            except (HTTPError, OSError, ValueError) as error:
                raise UserError(f"cannot push to {repository}: {reason(error)}") from None
        fetched.cache_clear()  # what was fetched may not be the newest any more
        return str(done)


def _is_here(path: Path) -> bool:
    """Return whether a part's name is a path: a folder called ``labels`` need not be a part."""
    holds = ("config.json", "model_index.json", "parameters", "vae")
    return path.exists() and (path.is_absolute() or any((path / each).exists() for each in holds))


def _named(config: ImagenConfig) -> list[str]:
    """Return the parts that are named by a path or a hub id instead of being in the cascade."""
    autoencoders = [stage.autoencoder for stage in config.stages]
    text = config.text_encoder_name.removeprefix("diffusers:")
    models = [stage.own_model for stage in config.stages]
    reads = None if config.clip is None else config.clip.text.encoder
    return [name for name in (text, reads, *autoencoders, *models) if isinstance(name, str)]
