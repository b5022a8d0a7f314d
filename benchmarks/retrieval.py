"""How much a text encoder's embeddings say of what captions mean, without training a cascade.

``captions``: five people described each photograph of COCO; the share of captions whose nearest
other caption, by the cosine of their mean embeddings, describes the same photograph. ``emoji``: a
ridge regression from the mean embedding of "NAME, STYLE style" to simple features of the image
(colors on an 8 x 8 grid, directions of edges on a 4 x 4 grid, 64 principal components) is fitted to
four fifths of the emoji; the share of the others whose image is among the nearest 5 % of their
style. No emoji in any style is on both sides. Another fifth chooses the decay of the regression.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.real_data import folder
from minimagen.data.words import count_words, report_words
from minimagen.text.encoding import TextEncoder

SOURCES = {"captions": "coco_captions_mini", "emoji": "emoji"}
DECAYS = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
FOLDS, NEAR, COMPONENTS = 5, 0.05, 64


def retrieval(what: str, encoder: TextEncoder) -> dict[str, float]:
    """Return the shares that are found, and the shares of words that the encoder knows."""
    source = folder() / SOURCES[what]
    rows = _rows(source)
    captions = [_captions(row) for row in rows]
    flat = [caption for some in captions for caption in some]
    features = torch.stack([embeds.mean(0) for embeds in encoder.encode(flat)]).double()
    report = report_words(encoder, count_words(flat))
    known = {"words": report.known_words, "occurrences": report.known_occurrences}
    if what == "captions":
        photographs = torch.tensor([i for i, some in enumerate(captions) for _ in some])
        return known | {"found": same_photograph(features, photographs)}
    images = image_features([source / row["file_name"] for row in rows])
    return known | {"found": emoji_found(rows, features, images)}


def _rows(source: Path) -> list[dict[str, Any]]:
    files = sorted(source.rglob("metadata.jsonl"))
    return [json.loads(line) for file in files for line in file.open(encoding="utf-8")]


def _captions(row: dict[str, Any]) -> list[str]:
    return row.get("captions") or [f"{row['text']}, {row['style']} style"]


def same_photograph(features: Tensor, photographs: Tensor) -> float:
    """Return the share of rows whose nearest other row is of the same photograph."""
    directions = torch.nn.functional.normalize(features - features.mean(0), dim=1)
    cosines = (directions @ directions.T).fill_diagonal_(-2.0)
    return (photographs[cosines.argmax(1)] == photographs).double().mean().item()


def image_features(files: list[Path]) -> Tensor:
    """Return what an image looks like from afar, [images components] float64."""
    found = []
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        colors = np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.float64).ravel() / 255
        gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
        dy, dx = np.gradient(gray / 255)
        directions = (np.arctan2(dy, dx) % np.pi / np.pi * 8).astype(int).clip(0, 7)
        edges = np.zeros((4, 4, 8))
        y, x = np.mgrid[:32, :32] // 8
        np.add.at(edges, (y, x, directions), np.hypot(dx, dy))
        found.append(np.concatenate([colors, edges.ravel() / (np.linalg.norm(edges) + 1e-6)]))
    values = torch.from_numpy(np.stack(found))
    values = (values - values.mean(0)) / (values.std(0) + 1e-6)
    left, scales, _ = torch.linalg.svd(values, full_matrices=False)
    return left[:, :COMPONENTS] * scales[:COMPONENTS]


def emoji_found(rows: list[dict[str, Any]], features: Tensor, images: Tensor) -> float:
    """Return the share of held-out emoji that are found, as the mean over the folds.

    The decay of a fold is the one that finds most of the next fold, fitted without both.
    """
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    styles = sorted({row["style"] for row in rows})
    style = torch.tensor([styles.index(row["style"]) for row in rows])
    codes = sorted({row["codepoints"] for row in rows})
    random.Random(0).shuffle(codes)
    fold_of = {code: i % FOLDS for i, code in enumerate(codes)}
    folds = torch.tensor([fold_of[row["codepoints"]] for row in rows])

    def found(seen: Tensor, asked: Tensor, decay: float) -> float:
        guess = ridge(features[seen], images[seen], decay)
        return near(guess(features[asked]), images[asked], style[asked])

    shares = []
    for fold in range(FOLDS):
        held, tune = folds == fold, folds == (fold + 1) % FOLDS
        best = max(DECAYS, key=lambda decay: found(~(held | tune), tune, decay))
        shares.append(found(~held, held, best))
    return sum(shares) / FOLDS


def ridge(x: Tensor, y: Tensor, decay: float) -> Any:
    """Return the function that a ridge regression from ``x`` to ``y`` fits."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = (x - x_mean).T @ (x - x_mean) + decay * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, (x - x_mean).T @ (y - y_mean))
    return lambda values: (values - x_mean) @ weights + y_mean


def near(predicted: Tensor, images: Tensor, style: Tensor) -> float:
    """Return the share of images that are among the nearest to their prediction in their style."""
    found = 0
    for each in style.unique():
        guess, true = (
            torch.nn.functional.normalize(values[style == each], dim=1)
            for values in (predicted, images)
        )
        cosines = guess @ true.T
        nearer = (cosines > cosines.diag()[:, None]).sum(1)
        found += int((nearer < NEAR * len(true)).sum())
    return found / len(style)
