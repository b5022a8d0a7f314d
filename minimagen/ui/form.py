"""What is filled in on the page: from controls to settings, and from an image back to controls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from minimagen.arguments import seeds_of
from minimagen.checked import whole_number
from minimagen.config.stages import SamplerName
from minimagen.errors import UserError
from minimagen.generating import Request
from minimagen.storage.metadata import Generation

MOST = 64  # images, or cells of a sweep, at a time
LONGEST = 2000  # characters of a caption
FILLED = ("timesteps", "guidance_scale", "sampler", "aug_level")  # what has a field


@dataclass(frozen=True)
class Form:
    """What is filled in; texts of numbers have one for all stages, or one each, with commas."""

    model: str
    caption: str
    negative: str = ""
    seed: int | None = None
    count: int = 1
    steps: str = ""
    guidance: str = ""
    sampler: str = ""
    aug_level: str = ""

    def changes(self) -> dict[str, Any]:
        """Return the sampling settings that are filled in.

        Raises:
            UserError: A text is no number.
        """
        texts = {
            "timesteps": self.steps,
            "guidance_scale": self.guidance,
            "aug_level": self.aug_level,
        }
        changes = {name: numbers(name, text) for name, text in texts.items() if text.strip()}
        return changes | ({"sampler": self.sampler} if self.sampler else {})

    @property
    def text(self) -> str:
        """Return the caption on one line."""
        return " ".join(self.caption.split())

    @property
    def against(self) -> str | None:
        """Return the negative caption, if there is one."""
        return self.negative.strip() or None

    def request(self, seed: int, samplings: Sequence[Any]) -> Request:
        """Return the request of an image with this seed."""
        return Request(self.text, seed, tuple(samplings), self.against)

    def seeds(self, count: int = 1) -> list[int]:
        """Return the seeds of ``count`` images, counted from the form's or from a fresh one."""
        return seeds_of(self.seed, None, count)

    def checked(self) -> "Form":
        """Return the form; a UserError unless a caption is there, and not too much is asked for."""
        if not self.caption.strip():
            raise UserError("The caption is empty: write what the image should show.")
        for text in (self.caption, self.negative):
            if len(text) > LONGEST:
                raise UserError(f"A caption has {len(text)} characters; at most {LONGEST} fit.")
        if not 1 <= self.count <= MOST:
            raise UserError(f"The number of images is {self.count}; give 1 to {MOST}.")
        return self


def numbers(name: str, text: str) -> Any:
    """Return one number, or a list of them where there are commas."""
    try:
        values = [float(part) for part in text.split(",")]
        whole = [int(value) if value == int(value) else value for value in values]
    except (ValueError, OverflowError):  # no number; not a number, infinite
        raise UserError(f"{name} is {text!r}; give numbers such as 8 or 8,2") from None
    return whole[0] if len(whole) == 1 else whole


def form_of(*values: Any) -> Form:
    """Return what is filled in; ``values`` are those of ``Controls.all``, and others after them.

    Raises:
        UserError: The seed is no whole number.
    """
    model, caption, negative, seed, count, steps, guidance, sampler, aug_level = values[:9]
    fresh = seed is None or seed == -1
    whole = None if fresh else whole_number("seed", seed, least=0)
    return Form(model, caption or "", negative or "", whole, int(count), steps or "",
                guidance or "", sampler or "", aug_level or "")  # fmt: skip


def not_filled(made: Generation, trained: Sequence[Mapping[str, Any]] | None) -> Iterator[str]:
    """Yield what the form cannot say of how an image was made.

    Args:
        made: How.
        trained: How the stages of the model that made it sample by default; None where that model
            is not here.
    """
    if trained is None:
        yield "The weights of this image are not here: the chosen model makes another image."
    if made.edit is not None:
        yield "The image was made of another one, which it does not carry: give that image too."
    if made.whole is not None:
        yield "The file is a strip, a sheet or an animation of several images: the form makes one."
    if made.aspect_ratio is not None:
        yield "The image has another shape than those of this page."
    if len({str(stage.get("sampler")) for stage in made.stages}) > 1:
        yield "The stages had samplers of their own: the trained ones are chosen."
    if made.precision != "auto":
        yield f"The image was made in {made.precision}: this page samples in what is usual here."
    own = (trained or ())[made.first :]
    if len(made.stages) < len(own):
        yield "Later stages were left out: this page samples all of them, as trained."
    pairs = [*zip(made.stages, own, strict=False)]  # none where the model is not here
    for name in dict.fromkeys(name for stage, _ in pairs for name in stage if name not in FILLED):
        given = [stage[name] for stage, _ in pairs if name in stage]
        if given != [stage.get(name) for old, stage in pairs if name in old]:
            yield f"{name} was {', '.join(map(str, given))}: this page has no field for it."
    if any(choice != "final" for choice in made.weights):
        yield "The image was made with other weights than the final ones, which this page takes."


def fields_of(made: Generation, stages: int | None = None) -> list[Any]:
    """Return the values of ``Controls.all`` but the model that an image was made with.

    Where not all of the model's ``stages`` ran, what is one for each is left as trained.

    Raises:
        UserError: They are of another program, or were edited.
    """

    def each(name: str) -> str:
        values = [stage[name] for stage in made.stages if name in stage]
        if not all(isinstance(value, int | float) for value in values):
            raise UserError(f"The image says {name} {values}, which are no numbers.")
        whole = made.first == 0 and stages in (None, len(made.stages))
        return ",".join(map(str, values)) if whole else ""

    given = [stage.get("sampler", "") for stage in made.stages]
    sampler = given[0] if given and all(each == given[0] for each in given) else ""
    if sampler not in ("", *get_args(SamplerName)):
        raise UserError(f"The image was made with the sampler {sampler!r}, which is not ours.")
    return [made.text, made.negative or "", made.seed, 1, each("timesteps"),
            each("guidance_scale"), sampler, each("aug_level")]  # fmt: skip
