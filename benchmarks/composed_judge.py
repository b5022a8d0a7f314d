"""The judge of composed emoji: which emoji, in which style, on which background?

A small classifier with a head each, trained on real compositions of all emoji (it judges images, so
it may know the held-out ones), at first use; its weights lie in the cache. An image is fully
correct if its own emoji and style are the most probable of 100 and its background is right.
"""

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.composed_emoji import GROUNDS, SIDE, STYLES, ComposedEmoji
from benchmarks.judges import faulty
from minimagen.data.loading.reading import stack_images
from minimagen.device import autocast
from minimagen.draws import rng
from minimagen.evaluation.judge import Judge, JudgeConfig, JudgeNetwork, fit
from minimagen.sample import Sample
from minimagen.storage.cache import cache_folder

VERSION = 1  # of the weights in the cache: raise it with any change of training or data
WIDTHS, STRIDES = (32, 48, 64, 96, 128), (2, 1, 2, 1, 2)
STEPS, BATCH, RATE = 1500, 128, 3e-3
AMONG = 100  # combinations of emoji and style that one is retrieved from
CPU = torch.device("cpu")


def load_composed_judge(folder: Path) -> Judge:
    """Return the judge of the emoji in a folder, trained at first use."""
    emoji = ComposedEmoji(folder, "all")
    key = f"{len(emoji)}_{VERSION}"
    path = cache_folder("judges") / f"composed_emoji_{key}.safetensors"
    if not path.is_file():
        train_composed_judge(emoji, STEPS).save(path)
    return Judge.load("composed_emoji", path)


def train_composed_judge(emoji: ComposedEmoji, steps: int, seed: int = 0) -> Judge:
    """Train a judge with AdamW and one cycle of the learning rate, on images with small faults."""
    heads = {
        "name": tuple(sorted({row["text"] for row in emoji.emoji})),
        "style": STYLES,
        "background": tuple(GROUNDS),
    }
    config = JudgeConfig("composed_emoji", SIDE, WIDTHS, STRIDES, 160, heads, {})
    torch.manual_seed(seed)
    random.seed(seed)  # of the faults
    network = JudgeNetwork(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.2)
    started = time.perf_counter()
    for step in range(steps):
        samples = draw(emoji, BATCH, f"judge {seed} {step}")
        images = faulty(fit(stack_images(samples), SIDE), mirrored=False)
        with autocast(CPU, "auto"):
            logits = network(images)
        truth = indices(samples, heads)
        losses = [
            F.cross_entropy(logits[name].float(), truth[name], label_smoothing=0.05)
            for name in heads
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        cycle.step()
        if step % 100 == 0:
            parts = "  ".join(f"{n} {x.item():.3f}" for n, x in zip(heads, losses, strict=True))
            print(
                f"judge {step}/{steps} {time.perf_counter() - started:.0f} s  {parts}", flush=True
            )
    return Judge(network)


def draw(emoji: ComposedEmoji, count: int, name: str) -> list[Sample]:
    """Draw compositions of random emoji, as training draws them."""
    random_ = rng(name)
    return [emoji.draw(random_.randrange(len(emoji)), random_) for _ in range(count)]


def indices(samples: Sequence[Sample], heads: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Return the index of the true value of every head, [b] each."""
    places = {name: {v: i for i, v in enumerate(values)} for name, values in heads.items()}
    return {
        name: torch.tensor([places[name][sample.attributes[name]] for sample in samples])
        for name in heads
    }


@torch.inference_mode()
def judged(
    judge: Judge, images: Tensor, samples: Sequence[Sample], emoji: ComposedEmoji, seed: int = 0
) -> dict[str, float]:
    """Return shares of images, uint8 [n 3 h w], that show what their samples' captions ask for.

    ``retrieved``: for the judge emoji and style are the most probable of 100 combinations, the
    emoji's other style among them. ``name``, ``style``, ``background``: its own answers.
    ``fully_correct``: retrieved, and the background.
    """
    features = judge.features(images)
    logits = {name: head(features).log_softmax(1) for name, head in judge.network.heads.items()}
    truth = indices(samples, judge.config.heads)
    right = {name: logits[name].argmax(1) == truth[name] for name in logits}
    combinations = {(row["text"], row["style"]) for row in emoji.emoji}
    names, styles = (judge.config.heads[head] for head in ("name", "style"))
    everything = [(names.index(name), styles.index(style)) for name, style in sorted(combinations)]
    random_, retrieved = random.Random(seed), []
    for row, own in enumerate(zip(truth["name"].tolist(), truth["style"].tolist(), strict=True)):
        other_style = [each for each in everything if each[0] == own[0] and each != own]
        others = [each for each in random_.sample(everything, AMONG) if each != own]
        among = torch.tensor([own, *(other_style + others)[: AMONG - 1]])
        scores = logits["name"][row][among[:, 0]] + logits["style"][row][among[:, 1]]
        retrieved.append(bool(scores.argmax() == 0))
    right["retrieved"] = torch.tensor(retrieved)
    right["fully_correct"] = right["retrieved"] & right["background"]
    return {name: float(hits.float().mean()) for name, hits in right.items()}
