"""A small classifier that says what a picture of the embedded data set shows.

It was trained by `tools/train_judge.py` on real renders only, of all three splits (it judges
pictures, so it may know every combination), and its weights ship with the package.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minimagen.errors import UserError, did_you_mean
from minimagen.images import resize_clamped, to_model_space

WEIGHTS = Path(__file__).parent / "judge_weights"


@dataclass(frozen=True)
class JudgeConfig:
    """The shape of a judge and what it can answer.

    Attributes:
        level: the level of the data set that it knows.
        side: pictures of any size are resized to side x side before they are judged.
        widths: the channels of each convolution.
        strides: the stride of each convolution.
        features: the width of the penultimate layer.
        heads: attribute -> its possible values, in the order of the logits.
        applies: kind of picture -> the attributes that it has; empty where all pictures have all.
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

    def features(self, images: Tensor) -> Tensor:
        """Map float [b 3 side side] in [-1, 1] to the penultimate features [b features]."""
        return self.trunk(images)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map float [b 3 side side] in [-1, 1] to logits [b values] per attribute."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


class Judge:
    """Pictures in, attributes out: ``Judge.load()(images)["color"]`` is a list of colours."""

    def __init__(self, network: JudgeNetwork) -> None:
        """Take a trained network; it is put in evaluation mode."""
        self.network = network.eval()
        self.config = network.config

    @classmethod
    def load(cls, level: str = "simple", path: Path | None = None) -> "Judge":
        """Load the judge of one level of the embedded data set.

        Args:
            level: a level whose weights ship with the package, "simple" or "scenes".
            path: another file written by `save`, instead of the shipped one.

        Raises:
            UserError: there is no such judge.
        """
        path = path or WEIGHTS / f"{level}.safetensors"
        if not path.is_file():
            known = sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))
            hint = did_you_mean(level, known)
            raise UserError(f"no judge at {path}; known levels: {', '.join(known)}{hint}")
        with safe_open(path, framework="pt") as file:
            config = _config_from_json(file.metadata()["config"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = JudgeNetwork(config)
        network.load_state_dict(weights)
        return cls(network)

    def save(self, path: Path) -> None:
        """Write the weights, in half precision to keep the package small, and the config."""
        weights = {
            name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }
        save_file(weights, path, metadata={"config": json.dumps(asdict(self.config))})

    def to(self, device: torch.device) -> "Judge":
        """Move the network and return the judge."""
        self.network.to(device)
        return self

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Return float [b features], the penultimate features of uint8 [b 3 h w] of any size."""
        return torch.cat([self.network.features(part) for part in self._parts(images)])

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, list[str]]:
        """Say what each picture shows.

        Args:
            images: uint8 [b 3 h w], of any size.

        Returns:
            attribute -> one value per picture; "" where the judge takes the picture for a kind
            that does not have the attribute.
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
        """Bring pictures into the network's form, in parts that bound the memory."""
        device = next(self.network.parameters()).device
        return [fit(part.to(device), self.config.side) for part in images.split(256)]


def fit(images: Tensor, side: int) -> Tensor:
    """Bring uint8 [b 3 h w] of any size to float [b 3 side side] in [-1, 1]."""
    return resize_clamped(to_model_space(images), (side, side))


def score(
    verdicts: Mapping[str, Sequence[str]], attributes: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """Compare verdicts with the truth.

    Args:
        verdicts: what a judge answered.
        attributes: the truth, one mapping per picture; names the judge does not know are ignored.

    Returns:
        attribute -> accuracy in [0, 1] over the pictures that have it, and "all" -> the share of
        pictures with every attribute right.

    Raises:
        ValueError: the numbers of verdicts and truths differ.
    """
    if any(len(values) != len(attributes) for values in verdicts.values()):
        raise ValueError(f"the truth of {len(attributes)} pictures does not fit the verdicts")
    right: dict[str, list[bool]] = {}
    for row, truth in enumerate(attributes):
        hits = {name: verdicts[name][row] == truth[name] for name in verdicts if name in truth}
        for name, hit in (hits | {"all": all(hits.values())}).items():
            right.setdefault(name, []).append(hit)
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


def _config_from_json(text: str) -> JudgeConfig:
    """Read a config; JSON knows no tuples."""
    raw = json.loads(text)
    for name in ("heads", "applies"):
        raw[name] = {key: tuple(values) for key, values in raw[name].items()}
    raw |= {"widths": tuple(raw["widths"]), "strides": tuple(raw["strides"])}
    return JudgeConfig(**raw)
