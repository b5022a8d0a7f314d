"""The page to read first: captions -> text encoder -> base stage -> super-resolution -> pictures.

    a large red star on blue --> frozen T5 --> [b n d] embeddings
                                                  |        |
                                   noise --> base U-Net    |            16 x 16
                                                  |        |
                                   noise --> super-resolution U-Net     64 x 64 --> picture

Imagen (Saharia et al., arXiv 2205.11487): the text encoder is frozen, a base diffusion model paints
a small picture from the text, and super-resolution diffusion models, conditioned on the text and on
the picture before (noised a little, so that they learn to repair it), enlarge it.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from minimagen.checked import per_stage
from minimagen.config import ImagenConfig, SamplingConfig, Size
from minimagen.config.cascade_sizes import aspect_buckets
from minimagen.config.sizes import nearest, scaled
from minimagen.device import autocast, resolve_device
from minimagen.draws import derive_seed
from minimagen.errors import UserError
from minimagen.images import to_pil
from minimagen.stages.diffusion import DiffusionStage
from minimagen.stages.distilled import DistilledStage
from minimagen.stages.stage import Condition
from minimagen.storage.checkpoint import load_weights
from minimagen.storage.directory import TrainingDirectory, read_parameters
from minimagen.text.build import build
from minimagen.text.encoding import TextEncoder, TextEncoding, encode_batch

Callback = Callable[[int, int, int, Tensor], None]
"""Called after each step with (stage, step, number of steps, the estimate of the pictures)."""


class Imagen(nn.Module):
    """A text encoder and a cascade of stages.

    Args:
        config: The whole cascade.
        text_encoder: Frozen; made from ``config.text_encoder_name`` by default. It is no module:
            ``imagen.to`` moves the stages, ``imagen.text_encoder.to`` the encoder.
        seed: Of the initial weights; stage i's depend on (seed, i) only.
    """

    def __init__(
        self, config: ImagenConfig, text_encoder: TextEncoder | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = text_encoder or build(config.text_encoder_name, config.max_num_words)
        sizes = config.image_sizes
        self._links = nn.ModuleList()
        for i, stage in enumerate(config.stages):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(seed, i, "weights"))
                low_res_size = sizes[i - 1] if i else None
                width = self.text_encoder.embed_dim
                kind = DiffusionStage if stage.distilled_steps is None else DistilledStage
                self._links.append(kind(i, stage, sizes[i], low_res_size, width, sizes[-1]))

    @torch.inference_mode()
    def paint(
        self,
        text: TextEncoding,
        seeds: Sequence[int],
        samplings: Sequence[SamplingConfig],
        callback: Callback | None = None,
        device: torch.device | None = None,
        size: Size | None = None,
    ) -> list[Tensor]:
        """Paint one batch and return every stage's pictures, [b 3 h w] in [-1, 1] each.

        This is the method: each stage paints from the text and the pictures of the stage before.
        As many stages run as ``samplings`` has entries. ``size`` is (height, width) of the last
        stage's pictures, one of ``aspect_buckets``; its own by default.
        """
        sizes = self.config.image_sizes
        pictures: list[Tensor] = []
        for i, (stage, sampling) in enumerate(zip(self.stages, samplings, strict=False)):
            with _visiting(stage, device) as here:
                low_res = pictures[-1].to(here) if pictures else None
                embeds, mask = text.embeds.to(here), text.mask.to(here)
                own = scaled(sizes[i], sizes[-1], size) if size else sizes[i]
                condition = Condition(embeds, mask, low_res, own)
                report = partial(callback, i) if callback else None
                pictures.append(stage.sample(condition, seeds, sampling, report))
        return pictures

    def sample(
        self,
        captions: Sequence[str],
        *,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        timesteps: int | Sequence[int] | None = None,
        sampler: str | Sequence[str] | None = None,
        aug_level: float | Sequence[float] | None = None,
        aspect_ratio: float | None = None,
        batch_size: int = 64,
        precision: str = "auto",
        callback: Callback | None = None,
        device: torch.device | str | None = None,
    ) -> list[Image.Image]:
        """Return one picture per caption.

        Args:
            captions: What to paint.
            seed: Picture i gets the seed ``seed + i``; a fresh one by default.
            seeds: One seed per caption, instead of ``seed``. The same seed gives the same picture,
                whatever batch it is painted in.
            guidance_scale: Imagen's w, 1 = off. Here and below: one value for all stages or one per
                stage; the stages' own settings by default.
            timesteps: Sampling steps.
            sampler: ``ddpm``, ``ddim``, ``dpm++`` or ``heun``.
            aug_level: Noise time of the low-resolution pictures, in [0, 1]; the first stage has
                none and ignores its value.
            aspect_ratio: Width : height of the pictures; they get the nearest that the cascade
                can paint with as many pixels. A cascade learns it with ``aspect_buckets``.
            batch_size: Pictures painted at once.
            precision: ``auto``, ``fp32`` or ``bf16``.
            callback: Called after each step with (stage, step, number of steps, estimate).
            device: Where to paint with one stage on the device at a time, each sent back after its
                turn, such as ``"cuda"``; by default the stages paint where they are.

        Raises:
            UserError: If a setting is not valid, or there is no such device here.
        """
        return self.sample_stages(
            captions,
            self.samplings(guidance_scale, timesteps, sampler, aug_level),
            seeds=seeds if seeds is not None else _seeds(seed, len(captions)),
            aspect_ratio=aspect_ratio,
            batch_size=batch_size,
            precision=precision,
            callback=callback,
            device=device,
        )[-1]

    def sample_stages(
        self,
        captions: Sequence[str],
        samplings: Sequence[SamplingConfig],
        *,
        seeds: Sequence[int],
        aspect_ratio: float | None = None,
        batch_size: int = 64,
        precision: str = "auto",
        callback: Callback | None = None,
        device: torch.device | str | None = None,
    ) -> list[list[Image.Image]]:
        """Return the pictures of every stage: as many lists as ``samplings``, see ``sample``."""
        if len(seeds) != len(captions):
            raise UserError(f"{len(seeds)} seeds for {len(captions)} captions; give one each")
        device = resolve_device(device) if isinstance(device, str) else device
        size = None if aspect_ratio is None else self._size_of(aspect_ratio)
        painted: list[list[Image.Image]] = [[] for _ in samplings]
        for start in range(0, len(captions), batch_size):
            rows = slice(start, start + batch_size)
            text = encode_batch(self.text_encoder, captions[rows])
            with autocast(device or self.device, precision):
                batch = self.paint(text, seeds[rows], samplings, callback, device, size)
            for pictures, tensor in zip(painted, batch, strict=True):
                pictures.extend(to_pil(tensor))
        return painted

    def samplings(
        self,
        guidance_scale: float | Sequence[float] | None = None,
        timesteps: int | Sequence[int] | None = None,
        sampler: str | Sequence[str] | None = None,
        aug_level: float | Sequence[float] | None = None,
    ) -> list[SamplingConfig]:
        """Return each stage's sampling settings with the given changes, checked.

        Each is one value for all stages, or a sequence of one per stage, see ``sample``.

        Raises:
            UserError: If a value is not valid, or there are not as many as stages.
        """
        asked: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "timesteps": timesteps,
            "sampler": sampler,
            "aug_level": aug_level,
        }
        changes: list[dict[str, Any]] = [{} for _ in self.stages]
        for name, value in asked.items():
            for change, own in zip(changes, per_stage(name, value, len(changes)), strict=True):
                change.update({} if own is None else {name: own})
        pairs = enumerate(zip(self.config.stages, changes, strict=True))
        return [s.checked(s.sampling.replace(**change), f"stage {i}") for i, (s, change) in pairs]

    def _size_of(self, aspect_ratio: float) -> Size:
        if not 0 < aspect_ratio < float("inf"):
            raise UserError(f"aspect_ratio {aspect_ratio} is not a number above 0, such as 1.5")
        return nearest(aspect_buckets(self.config), aspect_ratio)

    @property
    def stages(self) -> list[DiffusionStage]:
        """Return the links of the cascade, the base stage first."""
        return cast(list[DiffusionStage], list(self._links))

    @property
    def device(self) -> torch.device:
        """Return where the first stage is."""
        return next(self.stages[0].parameters()).device

    @classmethod
    def from_parameters(
        cls, folder: str | Path, text_encoder: TextEncoder | None = None, seed: int = 0
    ) -> "Imagen":
        """Return an untrained cascade from a parameters directory."""
        return cls(read_parameters(Path(folder)).imagen, text_encoder, seed)

    @classmethod
    def from_directory(cls, path: str | Path, text_encoder: TextEncoder | None = None) -> "Imagen":
        """Return the trained cascade of a training directory.

        Raises:
            UserError: If a stage has no trained weights, or they belong to another configuration.
        """
        directory = TrainingDirectory.open(path)
        imagen = cls(read_parameters(directory.parameters).imagen, text_encoder)
        for i in range(len(imagen.stages)):
            imagen.load_stage(i, directory.weights(i))
        return imagen.eval()

    def load_stage(self, i: int, path: Path) -> None:
        """Load the weights of stage ``i`` after checking that they were trained for it."""
        if not path.is_file():
            raise UserError(
                f"{path.parents[1]} has no trained weights for stage {i} ({path.name} is missing); "
                f"train it: `resume` {path.parents[1]}"
            )
        weights = load_weights(path)
        if weights.state.get("stage") != self.stage_identity(i):
            raise UserError(
                f"{path} was trained with another configuration than the directory's parameters"
            )
        try:
            self.stages[i].load_state_dict(weights.tensors)
        except RuntimeError:  # the header fits, the tensors do not: another version's network
            raise UserError(
                f"{path} does not hold the weights of this network: it is damaged, or another "
                "version of this program wrote it"
            ) from None

    def stage_identity(self, i: int) -> dict[str, Any]:
        """Return what weights of stage ``i`` depend on, for the header of their file."""
        config = self.config
        stage = config.stages[i].model_dump(mode="json", exclude={"sampling"})
        for name in ("crop", "distilled_steps"):  # as in files from before there were any
            if stage[name] is None:
                del stage[name]
        if stage["loss"]["time_shift"] == 1.0:
            del stage["loss"]["time_shift"]
        sizes = [list(size) for size in config.image_sizes[max(0, i - 1) : i + 1]]
        return stage | {"image_sizes": sizes, "text_encoder_name": config.text_encoder_name}


def _seeds(seed: int | None, count: int) -> list[int]:
    first = secrets.randbits(32) if seed is None else seed
    return list(range(first, first + count))


@contextmanager
def _visiting(stage: nn.Module, device: torch.device | None) -> Iterator[torch.device]:
    """Bring ``stage`` to ``device`` for a while; yields where it is."""
    home = next(stage.parameters()).device
    if device is None:
        yield home
        return
    try:
        stage.to(device)
        yield device
    finally:
        stage.to(home)
