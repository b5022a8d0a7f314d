"""A small classifier of what an image of the embedded data set shows.

It was trained by `tools/train_judge.py` on real renders only, of all three splits (it judges
images, so it may know every combination), and its weights ship with the package.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minimagen.errors import UserError, did_you_mean, first_line
from minimagen.images import resize_clamped, to_model_space

WEIGHTS = Path(__file__).parent / "judge_weights"


@dataclass(frozen=True)
class JudgeConfig:
    """The shape of a judge and what it can answer.

    Attributes:
        level: the level of the data set that it knows.
        side: images of any size are resized to side x side before they are judged.
        widths: the channels of each convolution.
        strides: the stride of each convolution.
        features: the width of the penultimate layer.
        heads: attribute -> its possible values, in the order of the logits.
        applies: kind of image -> the attributes that it has; empty where all images have all.
    """

    level: str
    side: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    features: int
    heads: dict[str, tuple[str, ...]]
    applies: dict[str, tuple[str, ...]]


class JudgeNetwork(nn.Module):
    """Convolutions, one hidden layer that keeps the places of things, and a head per attribute."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        width, side = 3, config.side
        for out, stride in zip(config.widths, config.strides, strict=True):
            conv = nn.Conv2d(width, out, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
            width, side = out, side // stride
        hidden = nn.Linear(width * side * side, config.features)
        self.trunk = nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.features, len(v)) for name, v in config.heads.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map float [b 3 side side] in [-1, 1] to logits [b values] per attribute."""
        features = self.trunk(images)
        return {name: head(features) for name, head in self.heads.items()}


class Judge:
    """Images in, attributes out: ``Judge.load()(images)["color"]`` is a list of colors."""

    def __init__(self, network: JudgeNetwork) -> None:
        self.network = network.eval()
        self.config = network.config

    @classmethod
    def load(cls, level: str = "simple", path: Path | None = None) -> "Judge":
        """Load the judge of one level of the embedded data set, or a file written by `save`.

        Raises:
            UserError: there is no such judge.
        """
        path = path or WEIGHTS / f"{level}.safetensors"
        if not path.is_file():
            known = sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))
            hint = did_you_mean(level, known)
            raise UserError(f"no judge at {path}; known levels: {', '.join(known)}{hint}")
        try:
            with safe_open(path, framework="pt") as file:
                config = TypeAdapter(JudgeConfig).validate_json(file.metadata()["config"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            network = JudgeNetwork(config)
            network.load_state_dict(weights)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path} is no judge that `tools/train_judge.py` wrote: {first_line(error)}"
            ) from None
        return cls(network)

    def save(self, path: Path) -> None:
        """Write the weights, in half precision to keep the package small, and the config."""
        state = copy.deepcopy(self.network).half().cpu().state_dict()
        save_file(state, path, metadata={"config": json.dumps(asdict(self.config))})

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Return float [b features], the penultimate features of uint8 [b 3 h w] of any size."""
        return torch.cat([self.network.trunk(part) for part in self._parts(images)])

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, list[str]]:
        """Return attribute -> one value for each of the images, uint8 [b 3 h w] of any size.

        The value is "" where the judge takes the image for a kind without the attribute.
        """
        verdicts: dict[str, list[str]] = {name: [] for name in self.config.heads}
        for part in self._parts(images):
            for name, logits in self.network(part).items():
                values = self.config.heads[name]
                verdicts[name] += [values[best] for best in logits.argmax(1).tolist()]
        for row, kind in enumerate(verdicts.get("kind", [])):
            for name in verdicts.keys() - {"kind", *self.config.applies[kind]}:
                verdicts[name][row] = ""
        return verdicts

    def _parts(self, images: Tensor) -> list[Tensor]:
        """Return images in the network's form, in parts that bound the memory."""
        device = next(self.network.parameters()).device
        return [fit(part.to(device), self.config.side) for part in images.split(256)]


def fit(images: Tensor, side: int) -> Tensor:
    """Return uint8 [b 3 h w] of any size as float [b 3 side side] in [-1, 1]."""
    return resize_clamped(to_model_space(images), (side, side))


def score(
    verdicts: Mapping[str, Sequence[str]], attributes: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """Compare a judge's verdicts with the truth: the attributes of every image.

    Returns:
        attribute that the judge knows -> accuracy in [0, 1] over the images that have it, and
        "all" -> the share of images that are fully correct.

    Raises:
        ValueError: the numbers of verdicts and truths differ.
    """
    if any(len(values) != len(attributes) for values in verdicts.values()):
        raise ValueError(f"the truth of {len(attributes)} images does not fit the verdicts")
    correct: dict[str, list[bool]] = {}
    for row, truth in enumerate(attributes):
        hits = {name: verdicts[name][row] == truth[name] for name in verdicts if name in truth}
        for name, hit in (hits | {"all": all(hits.values())}).items():
            correct.setdefault(name, []).append(hit)
    return {name: sum(hits) / len(hits) for name, hits in correct.items()}
