"""How long until images show what their captions ask? Ours beside diffusers, at fixed budgets.

    python -m benchmarks.time_to_quality --screen      the peer's trials: one seed, 90 s, tune split
    python -m benchmarks.time_to_quality               both sides, every budget, three seeds
    python -m benchmarks.time_to_quality --split heldout
    python -m benchmarks.time_to_quality --as-shipped  diffusers' own recipe, 10 x our time

A run has a budget of seconds; its clock starts with its process, its learning rate falls to 0
over the budget. Data and text encoding are part of it, judging is not. The levels are 50, 80, 90
and 95 % of captions fully correct (every attribute). Each run has its own process and the sides
alternate; budgets grow until a side, with this seed, has passed 95 %. Diffusers' side does
nothing but its steps; ours validates and saves at the end, and a sheet is sampled at the start and
at the end, all inside the budget. ``--stages 1`` is the first stage of ``parameters/`` alone,
``--stages 2`` the whole cascade. The peer has equally many parameters per stage, the same text
embeddings, data and judge, and the best recipe of its trials so far.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.measuring import (
    ROOT,
    Case,
    PeakMemory,
    Row,
    add_names,
    answer,
    build_parser,
    find,
    fingerprint,
    numbers,
    read_rows,
    results_folder,
    run_cases,
)
from benchmarks.peer_recipes import AS_SHIPPED, RECIPES, TRIALS, Recipe
from minimagen import Imagen, Judge, ShapesDataset, train
from minimagen.config import DiffusionConfig, ImagenConfig
from minimagen.data.loading.batches import training_batches
from minimagen.device import autocast, resolve_device
from minimagen.evaluation.judge import score
from minimagen.evaluation.metrics import wilson_interval
from minimagen.images import to_uint8
from minimagen.networks.unet import count_parameters
from minimagen.storage.directory import Parameters, read_parameters
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.encoding import encode_batch
from minimagen.text.pretrained import PretrainedEncoder

BUDGETS = (60, 90, 120, 180, 240, 300, 420, 600)  # seconds
LEVELS = (0.5, 0.8, 0.9, 0.95)  # share of captions fully correct
SCREENING = 90  # seconds
JUDGED_SEED = 1  # of the captions that are judged, as in python -m minimagen evaluate
SAMPLED_AT_ONCE = 50
NEVER = 10**9  # steps
SHIPPED_COUNT = 100  # captions judged of diffusers' own recipe: 1,000 steps each


@dataclass
class TrainedSide:
    """A side's trained networks, as the judge needs them."""

    sample: Callable[[Sequence[str], Sequence[int]], Tensor]
    """(captions, seeds) -> images of the last stage, [b 3 h w] in [-1, 1]."""
    images: list[int]
    """Number of images trained on, per stage."""
    parameters: list[int]
    precision: str


def measure(case: Case, started: float) -> Row:
    """Train one side within its budget, then judge it."""
    device = resolve_device()
    with (
        PeakMemory(device) as memory,
        tempfile.TemporaryDirectory() as empty,
        patch.dict(os.environ, MINIMAGEN_CACHE=empty),  # text is encoded within the budget
    ):
        trained = SIDES[case["side"]](case, started)
        seconds = time.time() - started
    row = {"seconds": seconds, "images": trained.images, "parameters": trained.parameters}
    return row | memory.row() | _judge(trained, case, device)


def cascade_of(case: Case) -> Parameters:
    """Return the parameters of the case, cut to its number of stages."""
    parameters = read_parameters(ROOT / case["cascade"])
    return Parameters(_first(parameters.imagen, case["stages"]), *parameters[1:])


def _first(imagen: ImagenConfig, count: int) -> ImagenConfig:
    return imagen.replace(image_sizes=imagen.image_sizes[:count], stages=imagen.stages[:count])


def train_ours(case: Case, started: float) -> TrainedSide:
    """Train with what remains of the budget after the text encoder is loaded."""
    config, training, data = cascade_of(case)
    imagen = Imagen(config, seed=case["seed"])
    imagen.text_encoder.encode([""])
    size = config.image_sizes[-1]
    dataset = ShapesDataset("train", size=size[0], seed=case["seed"], epoch_size=data.epoch_size)
    left = max(0.01, case["budget"] - (time.time() - started)) / 60
    change = {"minutes": left, "steps": None, "epochs": None, "seed": case["seed"]}
    change |= {"learners": training.learners[: case["stages"]]}
    change |= {"chckpt_num": NEVER, "sample_num": NEVER, "sample_captions": ("a red star",)}
    with tempfile.TemporaryDirectory() as folder:
        directory = train(imagen, dataset, training.replace(**change), data=data, output=folder)
        done = read_parameters(directory.parameters).training
    steps = [done.steps_of(i) or 0 for i in range(case["stages"])]
    imagen.eval()

    def sample(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        options = {"batch_size": len(captions), "precision": done.precision}
        return next(imagen.sample_batches(captions, imagen.samplings(), seeds, **options))[-1]

    return TrainedSide(
        sample,
        [n * done.batch_size_of(i) for i, n in enumerate(steps)],
        [count_parameters(stage) for stage in imagen.stages],
        done.precision,
    )


def train_peer(case: Case, started: float) -> TrainedSide:
    """Train the peer's stages one after the other, by the clock, until the budget is spent."""
    from benchmarks import peer_diffusers as peer  # only in the peer's process

    config, _, data = cascade_of(case)
    recipe, device = RECIPES[case["recipe"]], resolve_device()
    encoder = EmbeddingCache(PretrainedEncoder(config.text_encoder_name, config.max_num_words))
    width, size = encoder.embed_dim, config.image_sizes[-1][0]
    dataset = ShapesDataset("train", size=size, seed=case["seed"], epoch_size=data.epoch_size)
    stages, trained_on = [], []
    for i, until in enumerate(_ends(recipe, case)):
        low = config.image_sizes[i - 1][0] if i else None
        torch.manual_seed(case["seed"])
        shape = (config.image_sizes[i][0], low, width, case["widths"][i])
        own = config.stages[i]
        assert isinstance(own, DiffusionConfig)
        stage = peer.PeerStage(*shape, recipe, own.aug_level_max).to(device)
        trainer = peer.PeerTrainer(stage, case["seed"])
        begun = time.time()
        for batch in training_batches(dataset, encoder, recipe.batch_size, case["seed"], 0, NEVER):
            spent = (time.time() - begun) / max(1e-9, started + until - begun)
            if spent >= 1.0 and trainer.step:
                break
            trainer.train_step(batch, min(spent, 1.0))
        trainer.finish()
        stages.append(stage)
        trained_on.append(trainer.step * recipe.batch_size)

    def sample(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        text, image = encode_batch(encoder, captions).to(device), None
        with autocast(device, recipe.precision):
            for stage in stages:
                image = stage.sample(text, seeds, image)
        assert image is not None
        return image

    counts = [count_parameters(stage) for stage in stages]
    return TrainedSide(sample, trained_on, counts, recipe.precision)


SIDES = {"ours": train_ours, "diffusers": train_peer}


def _ends(recipe: Recipe, case: Case) -> list[float]:
    """Return when each stage's training ends, seconds from the start of the process."""
    share = recipe.super_resolution_share if case["stages"] > 1 else 0.0
    shares = [1 - share, *[share / max(1, case["stages"] - 1)] * (case["stages"] - 1)]
    return [case["budget"] * sum(shares[: i + 1]) for i in range(case["stages"])]


@torch.inference_mode()
def _judge(trained: TrainedSide, case: Case, device: torch.device) -> Row:
    """Sample the split's captions (image i with seed i) and judge the images."""
    size = cascade_of(case).imagen.image_sizes[-1][0]
    samples = list(ShapesDataset(case["split"], size=size, seed=JUDGED_SEED, epoch_size=case["n"]))
    batches, begun = [], time.perf_counter()
    for start in range(0, len(samples), SAMPLED_AT_ONCE):
        rows = range(start, min(start + SAMPLED_AT_ONCE, len(samples)))
        captions = [samples[i].caption for i in rows]
        batches.append(to_uint8(trained.sample(captions, rows)).cpu())
    seconds = time.perf_counter() - begun
    scores = score(Judge.load()(torch.cat(batches)), [s.attributes for s in samples])
    low, high = wilson_interval(round(scores["all"] * len(samples)), len(samples))
    return {
        "accuracy": scores,
        "fully_correct": scores["all"],
        "interval": [low, high],
        "sampling_seconds_per_image": seconds / len(samples),
    }


def peer_widths(case: Case, recipe: Recipe) -> list[int]:
    """Return the peer's width per stage, found before its clock starts."""
    return list(_widths(str(case["cascade"]), case["stages"], recipe))


@lru_cache
def _widths(cascade: str, stages: int, recipe: Recipe) -> tuple[int, ...]:
    from benchmarks.peer_diffusers import matching_width

    imagen = Imagen(_first(read_parameters(ROOT / cascade).imagen, stages))
    text, sizes = imagen.text_encoder.embed_dim, imagen.config.image_sizes
    counts = [count_parameters(stage) for stage in imagen.stages]
    return tuple(
        matching_width(sizes[i][0], i > 0, text, count, recipe) for i, count in enumerate(counts)
    )


def case_of(arguments: argparse.Namespace, **known: Any) -> Case:
    """Return a case; ``known`` holds side, budget, seed and, for the peer, its recipe."""
    cascade, stages = arguments.parameters, arguments.stages
    case: Case = {"cascade": str(cascade), "stages": stages, "split": arguments.split}
    case |= {"n": arguments.count, "purpose": "confirm"} | known
    if case["side"] == "ours":
        imagen, training, _ = cascade_of(case)
        return case | {"settings": fingerprint(imagen, training)}
    recipe = RECIPES[case["recipe"]]
    return case | {"settings": recipe.settings(), "widths": peer_widths(case, recipe)}


def tuned_recipe(rows: Sequence[Row], stages: int) -> Recipe:
    """Return the best recipe of the peer's trials with this cascade, else with its first stage.

    Without any trial it is the first recipe of the list.
    """
    trials = [row for row in rows if row["case"]["purpose"] == "trial"]
    of_stages = [row for row in trials if row["case"]["stages"] == stages] or trials
    if not of_stages:
        print("no trials of the peer yet (--screen); its first recipe is used")
        return TRIALS[0]
    return RECIPES[max(of_stages, key=lambda row: row["fully_correct"])["case"]["recipe"]]


def screening(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield the peer's trials; always on the tune split."""
    budget = arguments.budgets[0] if arguments.quick else SCREENING
    for recipe in TRIALS[: 1 if arguments.quick else None]:
        known = dict(side="diffusers", recipe=recipe.name, budget=budget, seed=0, split="tune")
        yield case_of(arguments, purpose="trial", **known)


def confirming(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield the runs of both sides, alternating; a side that has passed 95 % goes no further."""
    folder = results_folder(arguments)
    recipe = tuned_recipe(read_rows("time_to_quality", folder), arguments.stages)
    if arguments.recipe:
        recipe = RECIPES[arguments.recipe]
    passed: set[tuple[str, int]] = set()
    for budget in arguments.budgets:
        for seed in arguments.seeds:
            for side in arguments.sides:
                if (side, seed) in passed:
                    continue
                known = {"recipe": recipe.name} if side == "diffusers" else {}
                if known and arguments.recipe:
                    known["purpose"] = "named"
                case = case_of(arguments, side=side, budget=budget, seed=seed, **known)
                yield case
                row = find(read_rows("time_to_quality", folder), case)
                if row and row["fully_correct"] >= LEVELS[-1]:
                    passed.add((side, seed))


def as_shipped(arguments: argparse.Namespace, level: float = 0.8) -> Iterator[Case]:
    """Yield one run of diffusers' own recipe, of 10 x our mean time to ``level``."""
    from benchmarks.tables import times_to

    rows = read_rows("time_to_quality", results_folder(arguments))
    ours = [r for r in rows if r["case"]["side"] == "ours" and _same_question(r, arguments)]
    times = [t for t in times_to(ours, level).values() if t is not None]
    if not times and not arguments.quick:
        raise SystemExit(f"no run of ours has reached {level:.0%} yet: run those first")
    budget = 10 * sum(times) / len(times) if times else arguments.budgets[0]
    known = dict(side="diffusers", recipe=AS_SHIPPED.name, budget=budget, seed=0)
    known |= {"n": min(arguments.count, SHIPPED_COUNT)}
    yield case_of(arguments, purpose="as shipped", **known)


def _same_question(row: Row, arguments: argparse.Namespace) -> bool:
    case = row["case"]
    return (case["stages"], case["split"]) == (arguments.stages, arguments.split)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    parser.add_argument("--screen", action="store_true", help="the peer's trials")
    parser.add_argument("--as-shipped", action="store_true", help="diffusers' own recipe")
    parser.add_argument("--stages", type=int, default=1, help="of the cascade [1]")
    parser.add_argument("--split", choices=("tune", "heldout"), default="tune")
    parser.add_argument("--budgets", type=numbers, help="seconds, with commas between them")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], help="[0,1,2]")
    add_names(parser, "--sides", SIDES)
    parser.add_argument("--recipe", choices=RECIPES, help="the peer's recipe [best of its trials]")
    parser.add_argument("--count", type=int, help="captions judged [500]")
    parser.add_argument("--parameters", type=Path, help="the preset of our side [parameters]")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    quick = arguments.quick
    arguments.budgets = arguments.budgets or ([2] if quick else list(BUDGETS))
    arguments.seeds = arguments.seeds[:1] if quick else arguments.seeds
    arguments.count = arguments.count or (2 if quick else 500)
    arguments.parameters = arguments.parameters or Path(
        "parameters/testing" if quick else "parameters"
    )
    plan = screening if arguments.screen else as_shipped if arguments.as_shipped else confirming
    return run_cases("benchmarks.time_to_quality", plan(arguments), measure, arguments)


if __name__ == "__main__":
    main()
