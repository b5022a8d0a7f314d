"""How the peer (diffusers) is tuned: all recipes that are tried, and the one that it ships.

``TRIALS`` are screened at one budget with one seed on the ``tune`` split; the best is confirmed.
``AS_SHIPPED`` is the recipe of diffusers' ``examples/unconditional_image_generation`` with captions
added. Its network is that of the tuned recipe: the example's is too large to train on a CPU.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How the peer is built, trained and sampled."""

    name: str
    prediction: str = "v_prediction"
    betas: str = "squaredcos_cap_v2"
    """The noise schedule; this one is the cosine schedule."""
    min_snr_gamma: float | None = 5.0
    learning_rate: float = 1e-3
    adam_betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 50
    decay: str = "linear"
    """Of the learning rate to 0 over the budget: linear or cosine."""
    ema_decay: float | None = 0.995
    batch_size: int = 32
    precision: str = "auto"
    channels_last: bool = True
    attention_side: int = 8
    """Levels of at most this side attend to pixels and text."""
    mults: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 1
    sampler: str = "dpm++"
    sampling_steps: int = 20
    guidance_scale: float = 3.0
    caption_drop: float = 0.1
    super_resolution_share: float = 0.4
    """Of the training time, in a cascade of two."""
    time_shift: float = 1.0
    """Our own recipe gains most from it; no example of diffusers uses it."""
    attention: str = "fused"
    """PyTorch's fused product, or diffusers' plain one: in bfloat16 the fused one's backward is so
    slow on a CPU that without it a step takes 0.77 (32 px) and 0.87 (64 px) of its time."""

    def settings(self) -> dict[str, Any]:
        """Return the fields that identify a run; later fields only if they change it."""
        values = asdict(self)
        later = {"time_shift": 1.0, "attention": "fused"}
        return {k: v for k, v in values.items() if k not in later or v != later[k]}


_TUNED = Recipe("v, cosine, min-SNR 5, AdamW 1e-3")
TRIALS = (
    _TUNED,
    replace(_TUNED, name="learning rate 5e-4", learning_rate=5e-4),
    replace(_TUNED, name="learning rate 2e-3", learning_rate=2e-3),
    replace(_TUNED, name="learning rate 4e-3", learning_rate=4e-3),
    replace(_TUNED, name="attention also at 16", attention_side=16),
    replace(_TUNED, name="attention also at 16, 2e-3", attention_side=16, learning_rate=2e-3),
    replace(_TUNED, name="no min-SNR, 2e-3", min_snr_gamma=None, learning_rate=2e-3),
    replace(_TUNED, name="x_0 output, 2e-3", prediction="sample", learning_rate=2e-3),
    replace(_TUNED, name="batch 16, 1e-3", batch_size=16),
    replace(_TUNED, name="batch 64, 2e-3", batch_size=64, learning_rate=2e-3),
    replace(_TUNED, name="EMA 0.99, 2e-3", ema_decay=0.99, learning_rate=2e-3),
    replace(_TUNED, name="wide and flat, 2e-3", mults=(1, 1, 2, 2), learning_rate=2e-3),
    replace(_TUNED, name="contiguous, 2e-3", channels_last=False, learning_rate=2e-3),
    replace(_TUNED, name="fp32, 2e-3", precision="fp32", learning_rate=2e-3),
    replace(
        _TUNED,
        name="time shift 6, no min-SNR, 2e-3",
        time_shift=6.0,
        min_snr_gamma=None,
        learning_rate=2e-3,
    ),
    replace(
        _TUNED,
        name="time shift 6, x_0 output, 2e-3",
        time_shift=6.0,
        prediction="sample",
        learning_rate=2e-3,
    ),
)
AS_SHIPPED = Recipe(
    "as shipped",
    prediction="epsilon",
    betas="linear",
    min_snr_gamma=None,
    learning_rate=1e-4,
    adam_betas=(0.95, 0.999),
    weight_decay=1e-6,
    warmup_steps=500,
    decay="cosine",
    ema_decay=None,
    batch_size=16,
    precision="fp32",
    channels_last=False,
    sampler="ddpm",
    sampling_steps=1000,
)
FOR_STEPS = replace(_TUNED, name="plain v loss", attention_side=16, min_snr_gamma=None)
"""For the step benchmark, where both sides train with the plain loss in v."""
RECIPES = {recipe.name: recipe for recipe in (*TRIALS, AS_SHIPPED)}
