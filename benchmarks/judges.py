"""Judges of real images: small classifiers that are trained on real images only, once per machine.

A judge of classes answers with a caption. The judge of emoji has two heads, name and style; its
answer is the best of some captions ("retrieval"). Its weights lie in the cache.
"""

import random
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.real_data import CLASSES, Images, RealSet, emoji_rows
from minimagen.device import autocast
from minimagen.evaluation.judge import Judge, JudgeConfig, JudgeNetwork, fit
from minimagen.storage.cache import cache_folder

VERSION = 1  # of the weights in the cache: raise it with any change of the training
EPOCHS = {"mnist": 3, "fashion_mnist": 8, "flowers": 60, "emoji": 50}
BATCH = 128
AMONG = 100  # captions that an emoji's caption is retrieved from
CPU = torch.device("cpu")


def kind_of(name: str) -> str:
    """Return the judge of a data set."""
    return "emoji" if name.startswith("emoji") else name


def load_judge(real: RealSet) -> Judge:
    """Return the judge of a data set, trained at first use."""
    kind = kind_of(real.name)
    path = cache_folder("judges") / f"{kind}_{real.side}_{VERSION}.safetensors"
    if not path.is_file():
        train_judge(kind, real).save(path)
    return Judge.load(kind, path)


def train_judge(kind: str, real: RealSet, seed: int = 0) -> Judge:
    """Train a judge with AdamW and one cycle of the learning rate, on images with small faults."""
    images, truth, heads = _examples(kind, real)
    widths = (32, 64, 64, 128, 128)
    config = JudgeConfig(kind, real.side, widths, (1, 2, 1, 2, 2), 128, heads, {})
    torch.manual_seed(seed)
    network = JudgeNetwork(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS[kind] * (len(images) // BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.2)
    started, step = time.perf_counter(), 0
    while step < steps:
        for rows in torch.randperm(len(images)).split(BATCH)[:-1]:
            seen = faulty(fit(images[rows], real.side), mirrored=kind == "flowers")
            with autocast(CPU, "auto"):
                logits = network(seen)
            losses = [
                F.cross_entropy(logits[name].float(), truth[name][rows], label_smoothing=0.05)
                for name in heads
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            cycle.step()
            step += 1
            if step == steps:
                break
    print(f"judge of {kind}: {steps} steps, {time.perf_counter() - started:.0f} s", flush=True)
    return Judge(network)


def faulty(images: Tensor, mirrored: bool) -> Tensor:
    """Return model-space images moved and enlarged a little, some blurred, some noised."""
    count = len(images)
    shrink, move = 1 + 0.1 * torch.randn(count), 0.08 * torch.randn(count, 2)
    flip = 1 - 2 * (torch.rand(count) < 0.5).float() if mirrored else torch.ones(count)
    zero = torch.zeros(count)
    grid = torch.stack(
        [
            torch.stack([shrink * flip, zero, move[:, 0]], 1),
            torch.stack([zero, shrink, move[:, 1]], 1),
        ],
        1,
    )
    places = F.affine_grid(grid, list(images.shape), align_corners=False)
    x = F.grid_sample(images, places, padding_mode="border", align_corners=False)
    if random.random() < 0.3:
        small = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
        x = F.interpolate(small, scale_factor=2.0, mode="bilinear")
    x = x * (1 + 0.05 * torch.randn(count, 3, 1, 1)) + 0.05 * torch.randn(count, 3, 1, 1)
    return (x + 0.1 * torch.rand(count, 1, 1, 1) * torch.randn_like(x)).clamp(-1, 1)


def _examples(
    kind: str, real: RealSet
) -> tuple[Tensor, dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Return images, the index of each true value by head, and the values by head."""
    if kind != "emoji":
        examples = real.all_images()
        names = tuple(CLASSES[kind])
        return (
            examples.images,
            {"class": torch.tensor([names.index(c) for c in examples.captions])},
            {"class": names},
        )
    # The judge may know every combination: it judges images, it does not generate them.
    examples = all_emoji(real)
    parts = [caption.rpartition(", ")[::2] for caption in examples.captions]
    heads = {
        "name": tuple(sorted({name for name, _ in parts})),
        "style": tuple(sorted({style for _, style in parts})),
    }
    columns = dict(zip(heads, zip(*parts, strict=True), strict=True))
    truth = {
        name: torch.tensor([values.index(value) for value in columns[name]])
        for name, values in heads.items()
    }
    return examples.images, truth, heads


def all_emoji(real: RealSet) -> Images:
    """Return every emoji, those of the held-out combinations too."""
    known, rest = real.all_images(), real.held_out_images()
    if real.name == "emoji_few":
        from benchmarks.real_data import SETS

        known = SETS["emoji"].all_images()
    return Images(torch.cat([known.images, rest.images]), known.captions + rest.captions)


@torch.inference_mode()
def recognized(judge: Judge, images: Tensor, captions: Sequence[str], seed: int = 0) -> list[bool]:
    """Return for each image whether the judge reads its caption.

    For classes it is the judge's answer; for emoji the most probable of the caption and 99 others,
    drawn from all.
    """
    if judge.config.level != "emoji":
        answers = judge(images)["class"]
        return [answer == caption for answer, caption in zip(answers, captions, strict=True)]
    names, styles = (judge.config.heads[head] for head in ("name", "style"))
    everything = sorted({row["caption"] for row in emoji_rows()})
    logits = {head: _log_probabilities(judge, images, head) for head in ("name", "style")}
    rng, right = random.Random(seed), []
    name_at = {name: i for i, name in enumerate(names)}
    style_at = {style: i for i, style in enumerate(styles)}
    for row, caption in enumerate(captions):
        others = [c for c in rng.sample(everything, AMONG) if c != caption][: AMONG - 1]
        scores = []
        for each in (caption, *others):
            name, _, style = each.rpartition(", ")
            at_name, at_style = name_at[name], style_at[style]
            scores.append(logits["name"][row, at_name] + logits["style"][row, at_style])
        right.append(bool(scores[0] > max(scores[1:])))
    return right


def _log_probabilities(judge: Judge, images: Tensor, head: str) -> Tensor:
    features = judge.features(images)
    layer = judge.network.heads[head]
    assert isinstance(layer, nn.Linear)
    return layer(features).log_softmax(1)
