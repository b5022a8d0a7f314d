"""Many images, batch by batch: what is asked for, which images share a batch, how each was made."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from minimagen.arguments import Options
from minimagen.imagen import Imagen
from minimagen.images import to_pil
from minimagen.stages.stage import encode_own
from minimagen.storage.directory import Choice
from minimagen.storage.metadata import (
    LARGEST_BATCH,
    Edited,
    Generation,
    Given,
    GivenAs,
    Place,
    Whole,
)
from minimagen.text.encoded import EncodedCaptions


@dataclass(frozen=True)
class Request:
    """One image that is asked for.

    Attributes:
        text: Its caption.
        seed: Of all its noise.
        samplings: The settings of each stage that runs.
        negative: What guidance leads away from, instead of from no caption.
        aspect_ratio: Width : height, where it is not the cascade's own.
    """

    text: str
    seed: int
    samplings: tuple[Any, ...]
    negative: str | None = None
    aspect_ratio: float | None = None

    @property
    def shared(self) -> tuple[Any, ...]:
        """Return what is the same for all images of a batch."""
        return self.samplings, self.aspect_ratio, self.negative is None

    def values(self) -> dict[str, Any]:
        """Return it as JSON has it, see ``request_of``."""
        stages = [sampling.model_dump(mode="json") for sampling in self.samplings]
        return {
            "text": self.text,
            "seed": self.seed,
            "stages": stages,
            "negative": self.negative,
            "aspect_ratio": self.aspect_ratio,
        }


def request_of(imagen: Imagen, values: dict[str, Any], first: int = 0) -> Request:
    """Return the request that has these ``values``; a UserError where the cascade has no such."""
    stages = imagen.stages[first : first + len(values["stages"])]
    own = tuple(
        stage.settings(**each) for stage, each in zip(stages, values["stages"], strict=True)
    )
    return Request(values["text"], values["seed"], own, values["negative"], values["aspect_ratio"])


def swept(
    imagen: Imagen, request: Request, changes: dict[str, Any], cells: Sequence[dict[str, Any]]
) -> list[Request]:
    """Return the request of each cell of a sweep: of its own seed and settings, if it has any.

    Args:
        imagen: The cascade.
        request: What all have.
        changes: Its changes to the cascade's settings of sampling.
        cells: Settings by name, and ``seed``.
    """
    requests = []
    for cell in cells:
        own = changes | {name: value for name, value in cell.items() if name != "seed"}
        seed, samplings = int(cell.get("seed", request.seed)), tuple(imagen.samplings(**own))
        requests.append(replace(request, seed=seed, samplings=samplings))
    return requests


def batches_of(requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Yield the requests in order, at most ``size`` at a time, those of a batch alike."""
    for _, group in groupby(requests, key=lambda request: request.shared):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


@dataclass(frozen=True)
class Edit:
    """An image that is given, and what is done to it; see ``Options``. One for all images.

    Attributes:
        init_images: [1 3 h w].
        mask: [1 1 h w].
        low_res: [1 3 h w], what stage ``first`` enlarges.
    """

    init_images: Tensor | None = None
    mask: Tensor | None = None
    strength: float = 1.0
    resample: int = 1
    low_res: Tensor | None = None
    first: int = 0

    @property
    def images(self) -> dict[str, Tensor]:
        """Return the tensors that it has, by name."""
        return {k: v.contiguous() for k, v in vars(self).items() if isinstance(v, Tensor)}

    @property
    def settings(self) -> dict[str, Any]:
        """Return the numbers that it has, by name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, int | float)}

    @property
    def described(self) -> Edited:
        """Return what is kept with the images: not the image itself."""
        if self.low_res is not None:
            return Edited(kind="upscale")
        return Edited(
            kind="image to image" if self.mask is None else "inpainting",
            strength=self.strength,
            resample=self.resample,
        )


@dataclass
class Generator:
    """Samples batches of requests.

    Attributes:
        imagen: The cascade.
        text: What is asked for, encoded.
        model: Hash of its weights.
        weights: Which they are.
        options: Of ``Imagen.sample_batches``.
        edit: The image that is given, if there is one.
        given: What is kept of its files, see ``Generation.given``.
        too_many: Of the sizes of batches that the device had no memory for, the least: they are
            not tried again. Smaller ones are sampled as in a run that begins with them.
    """

    imagen: Imagen
    text: EncodedCaptions
    model: str
    weights: tuple[Choice, ...]
    options: dict[str, Any]
    edit: Edit | None = None
    given: Mapping[GivenAs, Given] = field(default_factory=dict)
    too_many: int = sys.maxsize

    def sample(
        self, batch: Sequence[Request], tokens: int = 0
    ) -> list[tuple[Image.Image, Generation]]:
        """Return the images of a batch, and how each was made.

        A batch that the device has no memory for is sampled in halves: the same images but for
        rounding, and each knows the batch that it was made in.

        Args:
            batch: Requests that share what ``Request.shared`` says.
            tokens: At least so many are the captions padded to.
        """
        half = (len(batch) + 1) // 2
        if len(batch) < self.too_many:
            try:
                return self._sample(batch, tokens)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.too_many = len(batch)
        return [*self.sample(batch[:half], tokens), *self.sample(batch[half:], tokens)]

    def _sample(
        self, batch: Sequence[Request], tokens: int
    ) -> list[tuple[Image.Image, Generation]]:
        shared, captions = batch[0], [request.text for request in batch]
        negatives = [request.negative for request in batch if request.negative is not None]
        tokens = max(tokens, self.text.tokens([*captions, *negatives]))
        (stages,) = self.imagen.sample_batches(
            captions,
            list(shared.samplings),
            [request.seed for request in batch],
            **self.options,
            **(vars(self.edit) if self.edit else {}),
            negative=negatives or None,
            aspect_ratio=shared.aspect_ratio,
            batch_size=len(batch),
            tokens=tokens,
            encoder=self.text,
        )
        return [
            (
                image,
                self._generation(request, image, Place(size=len(batch), index=i, tokens=tokens)),
            )
            for i, (request, image) in enumerate(zip(batch, to_pil(stages[-1]), strict=True))
        ]

    def _generation(self, request: Request, image: Image.Image, place: Place) -> Generation:
        return Generation(
            **request.values(),
            size=image.size,
            model=self.model,
            weights=self.weights,
            first=self.edit.first if self.edit else 0,
            edit=self.edit.described if self.edit else None,
            given=dict(self.given),
            precision=self.options.get("precision", "auto"),
            batch=place,
        )


def encoded(imagen: Imagen, requests: Sequence[Request]) -> EncodedCaptions:
    """Return all captions of some requests, encoded once."""
    negatives = [request.negative for request in requests if request.negative is not None]
    encode_own(imagen.stages, imagen.text_encoder)
    return EncodedCaptions(imagen.text_encoder, [*(r.text for r in requests), *negatives])


def made_together(
    whole: Whole,
    request: Request,
    image: Image.Image,
    model: str,
    weights: tuple[Choice, ...],
    precision: str = "auto",
    batch_size: int = Options.batch_size,
) -> Generation:
    """Return how a strip or sheet was made.

    Args:
        whole: What it is.
        request: The first caption and seed, and what all its images share.
        image: One of the last stage.
        model: Hash of the weights.
        weights: Which they are.
        precision: Of ``Imagen.sample``.
        batch_size: Likewise: bits depend on both.
    """
    return Generation(
        **request.values(),
        size=image.size,
        model=model,
        weights=weights,
        precision=precision,
        batch=Place(size=min(batch_size, LARGEST_BATCH)),
        whole=whole,
    )
