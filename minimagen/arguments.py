"""Arguments of ``Imagen.sample``, checked: whatever is given, the result or one clear line."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from minimagen.checked import whole_number
from minimagen.config import Size
from minimagen.device import resolve_device
from minimagen.draws import Noise, SeededNoise
from minimagen.errors import Stopped, UserError
from minimagen.foreign import ARGUMENTS
from minimagen.given import Given
from minimagen.images import to_pil
from minimagen.progress import tqdm

StageCallback = Callable[[int, int, int, Tensor], bool | None]
"""Called after each step with (stage, step, number of steps, the estimate of the images). Sampling
ends with ``Stopped`` where it returns True."""
OutputType = Literal["pil", "np", "pt"]
GIVEN = ("low_res", "init_images", "mask")
"""The options that are images, [n ...]."""


@dataclass(frozen=True)
class Options:
    """How to sample, whatever the stages.

    Attributes:
        first: The stage to begin with; a later one than 0 enlarges ``low_res``.
        low_res: One image for each caption or for all, [n 3 h w] in [-1, 1]; see ``first``.
        init_images: Images to edit, one for each caption or for all, [n 3 h w] in [-1, 1]: every
            stage begins with them, at its own size.
        strength: The time in (0, 1] that ``init_images`` are noised to: 1 keeps nothing of them,
            except with linear schedules, whose last level still holds a trace of the image.
        mask: [n 1 h w], like ``init_images``: 1 where they are sampled anew, 0 where they are kept.
        resample: How often each step is taken, with a ``mask``.
        negative: What guidance leads away from, instead of from no caption: one caption for all
            images, or one each. Without guidance it changes nothing.
        aspect_ratio: Width : height of the images; the nearest is taken that the cascade can sample
            with as many pixels. A cascade learns it with ``aspect_buckets``.
        encoder: Encodes the captions, instead of the cascade's own text encoder.
        noise: Returns the noise of images with some seeds in a stage.
        batch_size: Images sampled at once.
        precision: ``auto``, ``fp32`` or ``bf16``.
        tokens: The captions are padded to at least so many tokens. The bits of an image depend on
            that, as on its batch's size.
        callback: Called after each step.
        device: Where to sample with one stage on the device at a time, each sent back after its
            turn, such as ``"cuda"``; by default the stages sample where they are.
    """

    first: int = 0
    low_res: Tensor | None = None
    init_images: Tensor | None = None
    strength: float = 1.0
    mask: Tensor | None = None
    resample: int = 1
    negative: str | Sequence[str] | None = None
    aspect_ratio: float | None = None
    encoder: Any = None
    noise: Callable[[Sequence[int], int], Noise] = SeededNoise
    batch_size: int = 64
    precision: str = "auto"
    tokens: int = 0
    callback: StageCallback | None = None
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        whole_number("batch_size", self.batch_size, least=1)
        whole_number("first", self.first, least=0)
        whole_number("tokens", self.tokens, least=0)
        whole_number("resample", self.resample, least=1)
        if not (isinstance(self.strength, int | float) and 0.0 < self.strength <= 1.0):
            raise UserError(f"`strength` is {self.strength!r}; give a number above 0, at most 1")
        if self.init_images is None and (self.mask is not None or self.strength != 1.0):
            raise UserError("`mask` and `strength` are of an image: give `init_image` too")
        if self.mask is not None and self.init_images is not None:
            _check_mask(self.mask, self.init_images)
        if (self.first > 0) != (self.low_res is not None):
            raise UserError(
                f"first is {self.first}: give low_res for a later stage than 0, and then only"
            )

    def of_images(self, count: int) -> "Options":
        """Return the options of ``count`` images: one that is given is for all.

        Raises:
            UserError: There are other numbers of given images.
        """
        found = {name: x for name in GIVEN if (x := getattr(self, name)) is not None}
        for name, x in found.items():
            if len(x) not in (1, count):
                raise UserError(f"`{name}` has {len(x)} images for {count}; give one, or one each")
        each = {name: x.float().expand(count, -1, -1, -1) for name, x in found.items()}
        return replace(self, **each)

    def given(self, rows: slice, size: Size) -> Given | None:
        """Return what the images ``rows`` of a batch are edited from, at a stage's size."""
        if self.init_images is None:
            return None
        mask = None if self.mask is None else self.mask[rows]
        return Given(self.init_images[rows], self.strength, mask, self.resample).at(size)

    def negatives(self, rows: slice, count: int) -> list[str] | None:
        """Return the negative captions of the images ``rows`` of ``count``."""
        if self.negative is None:
            return None
        several = not isinstance(self.negative, str) and isinstance(self.negative, Iterable)
        each: list[Any] = [*self.negative] if several else [self.negative] * count
        if len(each) != count or not all(isinstance(text, str) for text in each):
            raise UserError(f"`negative` is {self.negative!r}; give one caption, or {count}")
        return each[rows]

    def texts(self, captions: Sequence[str]) -> list[str]:
        """Return all that is encoded for ``captions``."""
        return [*captions, *(self.negatives(slice(None), len(captions)) or [])]

    def report(self, stage: int) -> Callable[[int, int, Tensor], None] | None:
        """Return the callback of a stage; it raises ``Stopped`` where the user's returns True."""
        callback = self.callback
        if callback is None:
            return None

        def report(step: int, steps: int, x_0_hat: Tensor) -> None:
            if callback(stage, step, steps, x_0_hat):
                raise Stopped(f"stopped after step {step + 1} of {steps} of stage {stage}")

        return report

    @property
    def visited(self) -> torch.device | None:
        """Return the device that one stage at a time is sent to, if there is one.

        Raises:
            UserError: There is no such device here.
        """
        return None if self.device is None else resolve_device(self.device)

    @classmethod
    def taken_from(cls, settings: dict[str, Any], count: int = 0, each: int = 1) -> dict[str, Any]:
        """Take the options out of ``settings``; what is left are changes to sampling.

        Images that are given one for each of ``count`` captions are for ``each`` images of it.
        """
        names = [field.name for field in fields(cls) if field.name in settings]
        options = {name: settings.pop(name) for name in names}
        for name in (name for name in GIVEN if options.get(name) is not None):
            if not isinstance(options[name], Tensor):
                raise UserError(
                    f"`{name}` is {type(options[name]).__name__}; give a tensor [n c h w] in "
                    "[-1, 1] (minimagen.editing.as_tensor makes it of Pillow images)"
                )
            check_images(name, options[name])
            if len(options[name]) == count:
                options[name] = options[name].repeat_interleave(each, dim=0)
        return options


def check_images(name: str, images: Tensor) -> None:
    """Raise a UserError for what is not [n 3 h w] (a ``mask``: [n 1 h w]) of floats."""
    channels = 1 if name == "mask" else 3
    if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
        raise UserError(
            f"`{name}` is {images.dtype} {list(images.shape)}; give floats [n {channels} h w] "
            f"{'of 0 and 1' if name == 'mask' else 'in [-1, 1]'}"
        )


def stages_from(first: Any, samplings: list[Any]) -> list[Any]:
    """Return how the stages from ``first`` on sample.

    Raises:
        UserError: There is no such stage.
    """
    number, count = whole_number("first", first, least=0), len(samplings)
    if not count:
        raise UserError("there are no stages: a CLIP or an autoencoder alone makes no images")
    if number >= count:
        raise UserError(f"`first` is {number}; the cascade has {count} stages: 0 to {count - 1}")
    return samplings[number:]


def _check_mask(mask: Tensor, images: Tensor) -> None:
    """Raise a UserError for a mask of another size, or one that leaves all as it is."""
    if mask.shape[-2:] != images.shape[-2:]:
        (height, width), (rows, columns) = mask.shape[-2:], images.shape[-2:]
        raise UserError(
            f"the `mask` is {width} x {height}, the image {columns} x {rows} pixels: they must "
            "match"
        )
    if not mask.any():
        raise UserError("the `mask` is black everywhere: what is white in it is sampled anew")


def captions_of(captions: Any) -> list[str]:
    """Return one caption or several as a list.

    Raises:
        UserError: It is neither a str nor a sequence of them.
    """
    if isinstance(captions, str):
        return [captions]
    if not isinstance(captions, Iterable):
        raise UserError(f"captions is {captions!r}; give a caption, or a list of captions")
    texts = list(captions)
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"captions has {text!r}; every caption must be a str")
    return texts


def repeated(captions: list[str], count: Any) -> list[str]:
    """Return each caption ``count`` times; a UserError unless that is a whole number above 0."""
    count = whole_number("num_images_per_caption", count, least=1)
    return [caption for caption in captions for _ in range(count)]


def seeds_of(seed: Any, seeds: Any, count: int) -> list[int]:
    """Return a seed for each of ``count`` images: ``seed + i``, or ``seeds`` themselves.

    Raises:
        UserError: Both are given, there are not as many, or one is no whole number.
    """
    if seeds is None:
        first = secrets.randbits(32) if seed is None else whole_number("seed", seed, least=0)
        return list(range(first, first + count))
    if seed is not None:
        raise UserError("seed and seeds contradict each other; give one of them")
    if not isinstance(seeds, Iterable):
        raise UserError(f"seeds is {seeds!r}; give one whole number for each image")
    own = [whole_number("seeds", each, least=0) for each in seeds]
    if len(own) != count:
        raise UserError(f"{len(own)} seeds for {count} images; give one each")
    return own


def check_call(names: Iterable[str], output_type: Any, cascade: nn.Module) -> None:
    """Raise a UserError, before anything is sampled, for what another library would take.

    That is an argument that has another name here, a kind of output that there is not, or weights
    that were made float16 or float64 (bfloat16 halves the memory of a pretrained model).
    """
    for name in names:
        if name in ARGUMENTS:
            raise UserError(f"there is no argument {name!r}; {ARGUMENTS[name]}")
    if output_type not in get_args(OutputType):
        kinds = ", ".join(get_args(OutputType))
        raise UserError(f"`output_type` is {output_type!r}; give one of {kinds}")
    found = {parameter.dtype for parameter in cascade.parameters()}
    for dtype in found & {torch.float16, torch.float64}:
        raise UserError(
            f"the weights were made {str(dtype).removeprefix('torch.')}; load the cascade anew, "
            "and give `sample` `precision` instead (auto, fp32 or bf16)"
        )


def output_of(images: Tensor, kind: OutputType) -> Any:
    """Return images, [n 3 h w] in [-1, 1], as a list, or all in one array.

    Args:
        images: In model space.
        kind: ``pil``: PIL images; ``np``: float32 [n h w 3] in [0, 1]; ``pt``: the same as a tensor
            [n 3 h w].
    """
    if kind == "pil":
        return to_pil(images)
    unit = (images.float() / 2 + 0.5).clamp(0.0, 1.0)
    return unit if kind == "pt" else rearrange(unit, "n c h w -> n h w c").numpy()


@contextmanager
def shown(callback: StageCallback | None, on: bool) -> Iterator[StageCallback | None]:
    """Yield a callback that moves a progress bar too, if it is ``on``."""
    if not on:
        yield callback
        return
    with tqdm(unit=" steps", leave=False) as bar:

        def report(stage: int, step: int, steps: int, x_0_hat: Tensor) -> bool | None:
            if step == 0:  # each stage, and each batch, has a pace of its own
                bar.set_description(f"stage {stage}", refresh=False)
                bar.reset(steps)
            bar.update()
            return callback(stage, step, steps, x_0_hat) if callback else None

        yield report
