"""How easily a linear layer reads a caption's attributes from a text encoder's output.

    python tools/probe_text_encoder.py t5_mini /path/to/random /path/to/bag_of_words

For every encoder: the mean of a caption's embeddings, one logistic regression per attribute, fitted
to a few captions of the train split, scored on captions of the tune split, whose combinations of
colour, shape and background no encoder and no regression has seen. Prints a Markdown table.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from minimagen.data import shapes
from minimagen.text.t5 import T5Encoder

TEST_CAPTIONS = 2000


def draw_captions(split: str, count: int) -> tuple[list[str], dict[str, list[str]]]:
    """Return captions of a split and, per attribute, what each of them says."""
    rng = random.Random(f"probe {split}")
    attributes = [shapes.attributes_for(split, rng) for _ in range(count)]
    captions = [shapes.caption_for(each, rng) for each in attributes]
    return captions, {name: [each[name] for each in attributes] for name in shapes.ATTRIBUTES}


def pooled(encoder: T5Encoder, captions: list[str]) -> Tensor:
    """Return the mean embedding of each caption, ``[len(captions), d]``."""
    return torch.stack([embeds.mean(0) for embeds in encoder.encode(captions)])


def fit(features: Tensor, labels: Tensor, classes: int, decay: float = 1e-3) -> torch.nn.Linear:
    """Fit a logistic regression with L2 decay."""
    layer = torch.nn.Linear(features.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(features), labels)
        loss = loss + decay * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return layer


def probe(encoder: T5Encoder, examples: int) -> dict[str, float]:
    """Return the accuracy per attribute, and of all attributes together, on the tune split."""
    train_captions, train_values = draw_captions("train", examples)
    test_captions, test_values = draw_captions("tune", TEST_CAPTIONS)
    train, test = pooled(encoder, train_captions), pooled(encoder, test_captions)
    mean, scale = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / scale, (test - mean) / scale
    accuracy, all_right = {}, torch.ones(len(test), dtype=torch.bool)
    for name in shapes.ATTRIBUTES:
        values = sorted({*train_values[name], *test_values[name]})
        labels, truth = (
            torch.tensor([values.index(v) for v in side[name]])
            for side in (train_values, test_values)
        )
        right = fit(train, labels, len(values))(test).argmax(1) == truth
        accuracy[name] = right.float().mean().item()
        all_right &= right
    return accuracy | {"all": all_right.float().mean().item()}


def main() -> None:
    """Probe the encoders named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--examples", type=int, nargs="+", default=[300, 3000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = (*shapes.ATTRIBUTES, "all")
    print(f"| encoder | captions | {' | '.join(columns)} |")
    print("|" + "---|" * (len(columns) + 2))
    for name in options.encoders:
        for examples in options.examples:
            accuracy = probe(T5Encoder(name), examples)
            cells = " | ".join(f"{100 * accuracy[column]:.1f}" for column in columns)
            print(f"| {Path(name).name} | {examples} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
