"""How easily a linear layer reads a caption's attributes from a text encoder's output.

    python tools/probe_text_encoder.py t5_mini /path/to/random /path/to/bag_of_words

The features of a caption are the mean of its embeddings. For each attribute, a logistic regression
is fitted to captions of the train split and scored on captions of the tune split, whose
combinations of color, shape and background neither the encoder nor the regression has seen. The
last column, role, tests single tokens: does the embedding of a color's word show whether it is the
color of the object or of the background? Cross-attention needs that. Prints a Markdown table.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from minimagen.shapes import objects
from minimagen.shapes.drawing import COLORS
from minimagen.text.pretrained import PretrainedEncoder

TEST_CAPTIONS = 2000


def draw_captions(split: str, count: int) -> tuple[list[str], dict[str, list[str]]]:
    """Return captions of a split and, per attribute, the value of each."""
    rng = random.Random(f"probe {split}")
    attributes = [objects.attributes_for(split, rng) for _ in range(count)]
    captions = [objects.caption_for(each, rng) for each in attributes]
    return captions, {name: [each[name] for each in attributes] for name in objects.ATTRIBUTES}


def pooled(encoder: PretrainedEncoder, captions: list[str]) -> Tensor:
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


def accuracy_of_fit(
    train: Tensor, train_values: list[str], test: Tensor, test_values: list[str]
) -> Tensor:
    """Fit on one set of labeled features; return which of the other set are then correct."""
    mean, scale = train.mean(0), train.std(0) + 1e-6
    values = sorted({*train_values, *test_values})
    labels, truth = (
        torch.tensor([values.index(value) for value in side])
        for side in (train_values, test_values)
    )
    layer = fit((train - mean) / scale, labels, len(values))
    return layer((test - mean) / scale).argmax(1) == truth


def probe(encoder: PretrainedEncoder, examples: int) -> dict[str, float]:
    """Return the accuracy per attribute, and of all attributes together, on the tune split."""
    train_captions, train_values = draw_captions("train", examples)
    test_captions, test_values = draw_captions("tune", TEST_CAPTIONS)
    train, test = pooled(encoder, train_captions), pooled(encoder, test_captions)
    right = {
        name: accuracy_of_fit(train, train_values[name], test, test_values[name])
        for name in objects.ATTRIBUTES
    }
    right["all"] = torch.stack([*right.values()]).all(0)
    right["role"] = accuracy_of_fit(
        *color_tokens(encoder, train_captions, train_values),
        *color_tokens(encoder, test_captions, test_values),
    )
    return {name: each.float().mean().item() for name, each in right.items()}


def color_tokens(
    encoder: PretrainedEncoder, captions: list[str], values: dict[str, list[str]]
) -> tuple[Tensor, list[str]]:
    """Return the embeddings of color words, ``[n, d]``, and the role (attribute) of each."""
    words = {word: ids[-2] for word, ids in zip(COLORS, encoder.tokenize([*COLORS]), strict=True)}
    tokens, embeds = encoder.tokenize(captions), encoder.encode(captions)
    found, roles = [], []
    for role in ("color", "background"):
        for ids, caption_embeds, word in zip(tokens, embeds, values[role], strict=True):
            if words[word] in ids:  # inside a caption, other pieces may be chosen for it
                found.append(caption_embeds[ids.index(words[word])])
                roles.append(role)
    return torch.stack(found), roles


def main() -> None:
    """Probe the encoders named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--examples", type=int, nargs="+", default=[300, 3000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = (*objects.ATTRIBUTES, "all", "role")
    print(f"| encoder | captions | {' | '.join(columns)} |")
    print("|" + "---|" * (len(columns) + 2))
    for name in options.encoders:
        for examples in options.examples:
            accuracy = probe(PretrainedEncoder(name), examples)
            cells = " | ".join(f"{100 * accuracy[column]:.1f}" for column in columns)
            print(f"| {Path(name).name} | {examples} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
