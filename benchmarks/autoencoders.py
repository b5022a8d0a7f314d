"""What autoencoders leave of images after some minutes of training: latents and tokens.

    python -m benchmarks.autoencoders                        every set, kl and fsq, 5 minutes
    python -m benchmarks.autoencoders --sets shapes --kinds kl,fsq,gumbel,tiny --minutes 15
    python -m benchmarks.autoencoders --changes '{"kl_weight": 1e-4}'

They are trained by ``train.py --PARAMETERS latent --LEARNERS autoencoder_0`` as a user would, at 64
px and f = 4, discrete ones by ``--PARAMETERS dalle``, and measured on images that they were not
trained on. Choices are made with ``--split tune``: other combinations of attributes, images that
training splits off.
"""

import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import Case, Row, add_names, answer, build_parser, run_cases
from benchmarks.presets import (
    SPLITS,
    Changes,
    change_preset,
    copy_preset,
    hash_preset,
    merged,
    sets_of,
    split_of,
    train_preset,
)
from benchmarks.real_data import SETS as REAL
from benchmarks.real_data import emoji_folder, folder
from benchmarks.sheets import costing_no_row
from minimagen.autoencoders.build import load
from minimagen.config import AutoencoderConfig
from minimagen.data.loading.batches import good_samples
from minimagen.data.loading.reading import stack_images
from minimagen.data.open import load_dataset
from minimagen.evaluation.clip import held_out
from minimagen.evaluation.reconstruct import reconstruct
from minimagen.images import to_model_space, to_pil
from minimagen.shapes.dataset import embedded
from minimagen.storage.cache import cache_folder
from minimagen.storage.image_files import contact_sheet
from minimagen.storage.metadata import save_png

SETS = ("shapes", "emoji", "flowers")
KINDS: dict[str, dict[str, Any]] = {
    "kl": {"kind": "kl"},
    "tiny": {"kind": "tiny"},
    "fsq": {"kind": "fsq", "levels": [8, 5, 5, 5], "color_codes": True},
    "gumbel": {"kind": "gumbel", "num_codes": 1000, "codebook_dim": 32, "color_codes": True},
}
SIDE, COUNT, QUICK_COUNT = 64, 500, 8
ON_SHEET = 32
BATCH = 32  # of all, as the preset of latents has it


def measure(case: Case, started: float) -> Row:
    """Train one autoencoder and measure it."""
    del started
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        data = case["set"] if case["set"] == "shapes" else REAL[case["set"]].training_path
        preset = Path(place) / "preset"
        _write_preset(case["kind"], preset)
        part = ["--LEARNERS", "autoencoder_0"]
        row = train_preset(case | {"preset": str(preset)}, data, Path(place), part)
        autoencoder = load(str(Path(place) / "training"))
    samples = images_of(case["set"], case["count"], case.get("split", SPLITS[0]))
    report = reconstruct(autoencoder, samples)
    real = to_pil(to_model_space(stack_images(samples[:ON_SHEET])))
    sheet = contact_sheet(
        [sample.caption for sample in samples[:ON_SHEET]], [real, to_pil(report.images[:ON_SHEET])]
    )
    name = f"{case['set']}_{case['kind']}_{case.get('minutes', 'quick')}.png"
    with costing_no_row():
        save_png(cache_folder("autoencoder_sheets") / name, sheet)
    parameters = sum(p.numel() for p in autoencoder.parameters())
    return row | {
        "n": report.count,
        "parameters": parameters,
        "psnr": report.psnr,
        "color_shift": report.color_shift,
        "grain": list(report.grain),
        "latent_mean": list(report.latent_mean),
        "latent_std": list(report.latent_std),
        "usage": report.usage and list(report.usage),
    }


def _write_preset(kind: str, folder: Path) -> None:
    """Write the preset of an autoencoder at 64 px and of the stage behind it."""
    discrete = AutoencoderConfig(image_size=(SIDE, SIDE), **KINDS[kind]).is_discrete
    copy_preset("dalle" if discrete else "latent", folder)
    if discrete:  # of tokens; without super-resolution, which its preset has behind 32 px
        (folder / "unet_1.json").unlink()
        training = json.loads((folder / "training.json").read_text("utf-8"))
        first, second = training["learners"][:2]
        learners = [first | {"batch_size": BATCH}, second]
        changes: Changes = {
            "autoencoder_0": {"image_size": SIDE},
            "imagen": {"image_sizes": [SIDE]},
            "gpt_0": {"gpt": {"embedding": "table", "head": "table"}},
            "training": {"steps": training["steps"][:2], "learners": learners},
        }
        change_preset(folder, changes)


def images_of(name: str, count: int, split: str) -> list[Any]:
    """Return samples of a set that are not trained on."""
    if name == "shapes":
        return list(embedded("shapes", split=split, size=SIDE, seed=1, epoch_size=count))
    if split == "tune":
        return held_out(load_dataset(REAL[name].training_path, SIDE), count)
    if name == "flowers":
        return held_out(load_dataset(folder() / name, SIDE), count)
    dataset = load_dataset(emoji_folder("emoji_held_out"), SIDE)
    assert dataset.repeatable
    return list(good_samples(dataset, min(count, len(dataset))))


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Run the benchmark and return its rows."""
    parser = build_parser(__doc__)
    add_names(parser, "--sets", SETS)
    add_names(parser, "--kinds", KINDS, ["kl", "fsq"], "kl,fsq")
    parser.add_argument("--minutes", type=float, default=5.0, help="[5]")
    parser.add_argument("--changes", default="{}", help="JSON: changes to autoencoder_0.json")
    parser.add_argument("--training", default="{}", help="JSON: changes to training.json")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="tune: for choices")
    arguments = parser.parse_args(argv)
    if answer(arguments, measure):
        return []
    cases: list[Case] = []
    for name in sets_of(arguments.sets):
        for kind in arguments.kinds:
            changes = {
                "autoencoder_0": merged(KINDS[kind], json.loads(arguments.changes)),
                "training": json.loads(arguments.training),
            }
            length: Case = {"minutes": arguments.minutes, "count": COUNT}
            if arguments.quick:
                length = {"steps": 2, "count": QUICK_COUNT}
            case: Case = {"set": name, "kind": kind, "side": SIDE, "seed": 0}
            case |= {"changes": changes} | length | split_of(arguments.split)
            cases.append(case | hash_preset(partial(_write_preset, kind)))
    return run_cases("benchmarks.autoencoders", cases, measure, arguments)


if __name__ == "__main__":
    main()
