"""The peer on real data: diffusers' U-Net, tuned, one stage, the same data and text embeddings."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import peer_diffusers as peer
from benchmarks.measuring import Case, Row
from benchmarks.peer_recipes import RECIPES
from benchmarks.real_data import RealSet
from minimagen.config.recipes import TEXT_ENCODER
from minimagen.data.loading.batches import training_batches
from minimagen.device import autocast, resolve_device
from minimagen.text.build import build
from minimagen.text.cache.cache import EmbeddingCache
from minimagen.text.encoding import encode_batch

RECIPE = replace(RECIPES["time shift 6, no min-SNR, 2e-3"], attention="plain")
SHIFT = "--time_shift"
PARAMETERS = 3_100_000
NEVER = 10**9  # steps


def train_peer(
    real: RealSet, case: Case
) -> tuple[Callable[[Sequence[str], Sequence[int]], Tensor], Row]:
    """Train by the clock until the minutes are spent; return how it samples, and what it saw.

    The recipe's time shift was tuned at 16 px; ``--time_shift`` among the flags is another one.
    """
    flags = dict(zip(case["flags"][::2], case["flags"][1::2], strict=True))
    recipe = replace(RECIPE, time_shift=float(flags.get(SHIFT, RECIPE.time_shift)))
    device, started = resolve_device(), time.time()
    encoder = EmbeddingCache.on_disk(build(TEXT_ENCODER, 64), False)
    training = real.training_part()
    width = peer.matching_width(real.side, False, encoder.embed_dim, PARAMETERS, recipe)
    torch.manual_seed(case["seed"])
    stage = peer.PeerStage(real.side, None, encoder.embed_dim, width, recipe).to(device)
    trainer = peer.PeerTrainer(stage, case["seed"])
    begun, budget = time.time(), 60 * case["minutes"]
    for batch in training_batches(training, encoder, recipe.batch_size, case["seed"], 0, NEVER):
        spent = (time.time() - begun) / (budget - (begun - started))
        if spent >= 1.0 and trainer.step:
            break
        trainer.train_step(batch, min(spent, 1.0))
    trainer.finish()

    def sample(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        with autocast(device, recipe.precision):
            return stage.sample(encode_batch(encoder, captions).to(device), seeds)

    facts = {
        "sizes": [[real.side, real.side]],
        "steps": [trainer.step],
        "recipe": recipe.settings(),
    }
    return sample, facts | {"images": [trainer.step * recipe.batch_size]}
