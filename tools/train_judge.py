"""Train the judge of one level of the embedded data set, and print how fair it is.

    python tools/train_judge.py simple
    python tools/train_judge.py scenes
    python tools/train_judge.py digits
    python tools/train_judge.py digits --files mnist=FILE,textures=FILE --out judge.safetensors

It is trained on real renders of all three splits, never on a generated image. The renders get the
faults of generated images (noise, blur, color shifts, enlargement from a small size), so that the
judge recognizes content in spite of them. Equal seeds and thread counts give equal weights.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from minimagen.evaluation.judge import WEIGHTS, Judge, JudgeConfig, JudgeNetwork, fit, score
from minimagen.images import resize_clamped, to_model_space, to_uint8
from minimagen.sample import Sample
from minimagen.shapes import scenes
from minimagen.shapes.dataset import embedded
from minimagen.shapes.digits import DIGITS, Digits
from minimagen.shapes.drawing import COLORS, PATTERNS, SHAPES
from minimagen.shapes.objects import SIZES

BATCH = 128
STEPS = {"simple": 800, "scenes": 1000, "digits": 1500}
SOURCES = {"simple": "shapes", "scenes": "shapes:scenes", "digits": "digits"}
FRESH_SEED = 1_000_003  # renders for the report; training uses seed 0


def config_of(level: str, files: str = "") -> JudgeConfig:
    """Return the judge's network sizes and possible answers for one level."""
    widths = (24, 48, 48, 64, 64, 64)
    if level == "digits":
        values = {
            "digit": DIGITS,
            "color": tuple(COLORS),
            "background": Digits.of(files).backgrounds,
            "texture": ("no", "yes"),
        }
        return JudgeConfig(level, 64, widths, (2, 2, 1, 2, 1, 2), 128, values, {})
    if level == "scenes":
        values = {
            "kind": tuple(scenes.KINDS),
            "relation": scenes.RELATIONS,
            "count": scenes.COUNTS,
            "glyph": scenes.GLYPHS,
            "shape": tuple(SHAPES),
            "color": tuple(COLORS),
            "other_shape": tuple(SHAPES),
            "other_color": tuple(COLORS),
            "background": tuple(COLORS),
        }
        return JudgeConfig(level, 64, widths, (2, 2, 1, 2, 1, 2), 128, values, scenes.KINDS)
    values = {
        "shape": tuple(SHAPES),
        "color": tuple(COLORS),
        "size": tuple(SIZES),
        "background": tuple(COLORS),
        "pattern": PATTERNS,
    }
    return JudgeConfig(level, 32, widths, (1, 2, 1, 2, 1, 2), 128, values, {})


def batches(source: str, seed: int, start: int = 0, batch: int = BATCH) -> Iterator[list[Sample]]:
    """Draw batches without end, in which the splits have their natural shares, 8 : 1 : 1."""
    parts = ("train", "tune", "heldout")
    splits = [embedded(source, split=split, size=64, seed=seed) for split in parts]
    index = start
    while True:
        rows = range(index, index + batch)
        yield [splits[max(0, row % 10 - 7)][row] for row in rows]
        index += batch


def stack(samples: list[Sample]) -> Tensor:
    """Return uint8 [b 3 h w]."""
    return torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)


def at_size(images: Tensor, size: int) -> Tensor:
    """Resize uint8 images as the cascade makes its low-resolution targets."""
    return to_uint8(resize_clamped(to_model_space(images), (size, size)))


def spoil(images: Tensor, side: int, rng: random.Random) -> Tensor:
    """Give clean renders the faults of generated images.

    Args:
        images: uint8 [b 3 64 64].
        side: the judge's input side.
        rng: decides for the whole batch; torch's generator decides for each image.

    Returns:
        float [b 3 side side], about in [-1, 1].
    """
    native = rng.choice((16, 16, 24, 32, 48, 64, 64) if side < 64 else (16, 32, 48, 64, 64))
    images = at_size(images, native)
    if native < 64 and rng.random() < 0.5:
        images = at_size(images, 64)  # a super-resolution network that only enlarges
    x = fit(images, side)
    b = len(x)
    if rng.random() < 0.3:
        kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), _separable(kernel), groups=3)
    gain = 1 + 0.08 * torch.randn(b, 3, 1, 1)
    offset = 0.06 * torch.randn(b, 3, 1, 1)
    noise = 0.12 * torch.rand(b, 1, 1, 1) * torch.randn_like(x)
    coarse = F.interpolate(torch.randn(b, 3, side // 8, side // 8), (side, side), mode="bilinear")
    return (x * gain + offset + noise + 0.08 * torch.rand(b, 1, 1, 1) * coarse).clamp(-1, 1)


def _separable(kernel: Tensor) -> Tensor:
    """Return the depthwise [3 1 k k] filter of a one-dimensional kernel."""
    return (kernel[:, None] * kernel[None, :]).expand(3, 1, -1, -1)


def targets(config: JudgeConfig, attributes: list[Mapping[str, str]]) -> dict[str, Tensor]:
    """Return the index of each true value, -100 (ignored) where an image has no such attribute."""
    return {
        name: torch.tensor([values.index(a[name]) if name in a else -100 for a in attributes])
        for name, values in config.heads.items()
    }


def train(config: JudgeConfig, source: str, steps: int, seed: int) -> Judge:
    """Train with AdamW and one cycle of the learning rate; print the loss every 100 steps."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    network = JudgeNetwork(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.02)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.15)
    drawn, began = batches(source, seed), time.perf_counter()
    for step in range(1, steps + 1):
        samples = next(drawn)
        images = spoil(stack(samples), config.side, rng)
        logits = network(images.contiguous(memory_format=torch.channels_last))
        truth = targets(config, [s.attributes for s in samples])
        losses = {
            name: F.cross_entropy(logits[name], truth[name], reduction="sum") / BATCH
            for name in logits
        }
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        if step % 100 == 0 or step == steps:
            seconds = time.perf_counter() - began
            parts = "  ".join(f"{name} {value.item():.4f}" for name, value in losses.items())
            print(f"step {step}/{steps}  {seconds:.0f} s  loss {loss.item():.4f}  {parts}")
    return Judge(network.to(memory_format=torch.contiguous_format))


def report(judge: Judge, source: str, count: int, sizes: tuple[int, ...]) -> None:
    """Print a table: accuracy on fresh clean renders at several sizes, and on wrong captions."""
    samples = next(batches(source, FRESH_SEED, batch=count))
    truth = [s.attributes for s in samples]
    rows = {f"{size} px": score(judge(at_size(stack(samples), size)), truth) for size in sizes}
    shuffled = random.Random(0).sample(truth, count)
    rows["64 px, shuffled captions"] = score(judge(stack(samples)), shuffled)
    names = ["all", *judge.config.heads]
    print(f"\nJudge of {judge.config.level!r}, {count} fresh real renders, percent correct:\n")
    print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for label, result in rows.items():
        cells = [f"{100 * result[name]:.2f}" if name in result else "-" for name in names]
        print(f"| {label} | " + " | ".join(cells) + " |")


def main() -> None:
    """Train, save, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("level", choices=tuple(SOURCES))
    parser.add_argument("--files", default="", help="of digits: mnist=FILE,textures=FILE")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=10_000, help="fresh renders for the report")
    parser.add_argument("--out", type=Path, help="default: the package's own weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out = options.out or WEIGHTS / f"{options.level}.safetensors"
    source = SOURCES[options.level] + f":{options.files}" * bool(options.files)
    config, steps = config_of(options.level, options.files), options.steps or STEPS[options.level]
    judge = train(config, source, steps, options.seed)
    judge.save(out)
    print(f"saved {out}: {out.stat().st_size / 1e6:.2f} MB")
    # Measured as it ships, rounded to half precision.
    report(Judge.load(options.level, out), source, options.count, (16, 32, 64))


if __name__ == "__main__":
    main()
