"""A whole evaluation of cascades that are known: by heart, healthy, and trained a little."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from minimagen.__main__ import main
from minimagen.cli.export import facts_of
from minimagen.config import DataConfig, SamplingConfig
from minimagen.data.loading.reading import stack_images
from minimagen.data.open import load_dataset
from minimagen.diffusion.samplers import Heun
from minimagen.errors import UserError
from minimagen.evaluation import clip, measure
from minimagen.evaluation.features import JudgeFeatures
from minimagen.evaluation.report import write_report
from minimagen.evaluation.sampler import Sampler
from minimagen.evaluation.sets import Sets, read_sets
from minimagen.evaluation.study import Study, study
from minimagen.imagen import Imagen
from minimagen.images import to_model_space, to_pil
from minimagen.sample import Sample
from minimagen.shapes.dataset import ShapesDataset
from minimagen.storage.card import NO_FIGURES, OTHER_WEIGHTS
from minimagen.storage.checkpoint import load_weights, save_weights
from minimagen.storage.directory import TrainingDirectory
from minimagen.storage.figures import shown
from minimagen.text.clip import Clip
from tests.cli.conftest import QUICK

COUNT = 24
TRAINED = Path(__file__).parents[1] / "golden" / "trained"


class Answers:
    """Stands in for a cascade of one stage: ``images`` has what it answers a caption with."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        images = to_model_space(stack_images(samples))
        self.images = {s.caption: image for s, image in zip(samples, images, strict=True)}
        self.config = SimpleNamespace(image_sizes=((32, 32),))
        self.device = torch.device("cpu")

    def sample_batches(self, captions: Sequence[str], *_: Any, **__: Any) -> Iterator[list[Tensor]]:
        yield [torch.stack([self.images[caption] for caption in captions])]


def drawn(split: str, count: int, seed: int) -> list[Sample]:
    return list(ShapesDataset(split, "simple", 32, seed=seed, epoch_size=count))


def studied(answers: Sequence[Sample], sets: Sets, monkeypatch: pytest.MonkeyPatch) -> Study:
    imagen = cast(Imagen, Answers(answers))
    frames = [Image.new("RGB", (32, 32), (i, i, i)) for i in range(9)]
    monkeypatch.setattr(Sampler, "between", lambda *_: frames)
    return study(Sampler(imagen, [SamplingConfig()]), sets, JudgeFeatures("simple"))


def test_a_cascade_that_knows_eight_images_by_heart_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training, held_out = drawn("train", 8, 3), drawn("heldout", COUNT, 4)
    sets = Sets("mine", "validation", held_out, training)
    by_heart = [
        Sample(training[i % 8].image, sample.caption)
        for i, sample in enumerate([*training, *held_out])
    ]
    found = studied(by_heart, sets, monkeypatch).record
    assert [v for v in found.verdicts if v.startswith("MEMORIZED: 100 %")]
    shares = {f.name: f for f in found.figures if f.group == "memorization"}
    assert shares["copies in pixels"].value == 100
    assert cast(float, shares["copies in pixels"].real) < 10


def test_a_cascade_that_draws_what_captions_say_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    training, held_out = drawn("train", 60, 3), drawn("heldout", COUNT, 4)
    seen = [
        Sample(other.image, sample.caption)
        for sample, other in zip(training, drawn("train", 60, 5), strict=True)
    ]
    sets = Sets("mine", "validation", held_out, training)
    result = studied([*seen, *held_out], sets, monkeypatch)
    assert not any("MEMORIZED" in verdict for verdict in result.record.verdicts)
    figures = {f.name: f for f in result.record.figures}
    assert figures["nearer, own caption"].value == 100
    assert figures["largest step / median step"].value == 1.0
    smooth = figures["largest step / median step"]
    assert (smooth.low, smooth.high, smooth.n) == (1.0, 1.0, 8 * 9)
    diversity = figures["per caption, of real images' distance"]
    assert diversity.value == 0.0  # one image for each caption, whatever the seed
    assert (diversity.low, diversity.high, diversity.n) == (0.0, 0.0, 8 * 4)


def test_a_clip_without_captions_to_compare_is_refused_before_anything_is_sampled() -> None:
    samples = [Sample(np.zeros((32, 32, 3), np.uint8), "a dog")] * 4
    sets = Sets("mine", "validation", samples, samples)
    never = cast(Sampler, None)
    with pytest.raises(UserError, match="all held-out captions are equal"):
        study(never, sets, JudgeFeatures("simple"), clip=cast(Clip, object()))


def test_super_resolution_has_intervals_over_images() -> None:
    """Of 20 images whose values are 0 and 1 by turns: 0.5 +- 2.093 / sqrt(76)."""
    values = torch.arange(20) % 2.0
    names = "color_shift", "psnr_input", "psnr_truth", "psnr_bicubic", "ssim_truth", "ssim_bicubic"
    score = {name: values for name in names}
    figures = measure.super_resolution([score], [(48, 64)], [str(i) for i in range(20)])
    assert [f.group for f in figures] == ["super-resolution to 64 x 48"] * 4
    assert [(f.value, f.n, f.real) for f in figures] == [(0.5, 20, None)] * 2 + [(0.5, 20, 0.5)] * 2
    for each in figures:
        assert (each.low, each.high) == pytest.approx((0.2599, 0.7401), abs=1e-3)


def test_images_of_a_validation_part_are_of_all_kinds(tmp_path: Path) -> None:
    """Names that are sorted by class do not make the first class the whole evaluation."""
    for part, count in (("train", 4), ("validation", 40)):
        (tmp_path / part).mkdir()
        for i in range(count):
            name = f"{'ab'[2 * i // count]}_{i:02d}"
            Image.new("RGB", (32, 32), (6 * i, 0, 0)).save(tmp_path / part / f"{name}.png")
            (tmp_path / part / f"{name}.txt").write_text(name[0])
    config = Imagen.from_directory(TRAINED).config
    sets = read_sets(DataConfig(dataset=str(tmp_path)), config, 16)
    assert len({s.name for s in sets.held_out}) == 16
    assert 3 <= [s.caption for s in sets.held_out].count("a") <= 13
    assert len(clip.held_out(load_dataset(tmp_path, 32), None)) == 40


def test_smoothness_is_the_mean_over_pairs_of_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even steps between two captions, a jump of three steps between two others; no third pair."""
    pairs = {("a", "b"): range(9), ("c", "d"): [0, 1, 2, 3, 4, 5, 6, 7, 10]}

    def frames(_: Sampler, first: str, last: str, count: int) -> list[Image.Image]:
        return [Image.new("RGB", (8, 8), (i, i, i)) for i in pairs[first, last]]

    monkeypatch.setattr(Sampler, "between", frames)
    sampler = Sampler(cast(Imagen, None), [])
    (figure,) = measure.smoothness(sampler, ["a", "a", "b", "c", "d", "e", "a"]).figures
    assert (figure.value, figure.n) == (2.0, 18)
    assert (figure.low, figure.high) == pytest.approx((2 - 12.706, 2 + 12.706), abs=0.01)
    (alone,) = measure.smoothness(sampler, ["a", "b"]).figures
    assert (alone.value, alone.low, alone.high, alone.n) == (1.0, None, None, 9)


def test_a_jump_between_images_that_do_not_change_is_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = [Image.new("RGB", (8, 8), (255 * (i > 4),) * 3) for i in range(9)]
    monkeypatch.setattr(Sampler, "between", lambda *_: frames)
    (figure,) = measure.smoothness(Sampler(cast(Imagen, None), []), ["a", "b"]).figures
    assert figure.value == measure.JUMP


def test_interpolation_samples_with_the_settings_that_are_evaluated() -> None:
    """A sampler of one's own too; the ends are the images of their captions."""
    imagen = Imagen.from_directory(TRAINED)
    own = {"timesteps": [3, 1], "guidance_scale": 3.0, "sampler": Heun}
    options = {"precision": "fp32", "batch_size": 1}
    sampler = Sampler(imagen, imagen.samplings(**own), 4, options)
    frames = sampler.between("a red star", "a blue ring", 3)
    default = Sampler(imagen, imagen.samplings(), 4, options)
    for frame, caption in ((frames[0], "a red star"), (frames[-1], "a blue ring")):
        assert [frame] == to_pil(sampler([caption])[-1]) != to_pil(default([caption])[-1])


def card_of(imagen: Imagen, folder: Path) -> str:
    """Return the card that ``save_pretrained`` writes by itself."""
    return (imagen.save_pretrained(folder) / "README.md").read_text("utf-8")


def test_images_of_ones_own_are_evaluated_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tmp_path / "run", tmp_path / "mine"
    for part, count, split in (("train", 12, "train"), ("validation", 10, "heldout")):
        (data / part).mkdir(parents=True)
        for i, sample in enumerate(drawn(split, count, 1)):
            Image.fromarray(sample.image).save(data / part / f"{i}.png")
            (data / part / f"{i}.txt").write_text(sample.caption)
    assert main(["train", *QUICK, "--DATASET", str(data), "--OUTPUT", str(run)]) == 0
    assert NO_FIGURES in card_of(Imagen.from_directory(run), tmp_path / "first")
    capsys.readouterr()
    assert main(["evaluate", str(run), "-n", "10", "-t", "2", "--DEVICE", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "10 validation captions" in printed and "attributes" not in printed
    found = json.loads((run / "evaluation.json").read_text())
    groups = {row["group"] for row in found["figures"]}
    assert {"distance", "memorization", "diversity", "interpolation"} <= groups
    resampled = [row for row in found["figures"] if row["group"] in ("diversity", "interpolation")]
    assert all(row["low"] <= row["value"] <= row["high"] for row in resampled)
    assert {row["n"] for row in found["figures"] if row["group"] == "distance"} == {10}
    (verdict,) = found["verdicts"]
    assert verdict.startswith("No more copies of 12 training images of mine")
    assert found["dataset"] == "mine"
    page = (run / "report.html").read_text("utf-8")
    assert page.count("<img") >= 6 and "Frechet distance" in page
    assert str(tmp_path) not in page  # nothing of this machine
    assert "other settings: stage 0: timesteps 2, not 1" in page and "not here any more" not in page
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "on `mine` (validation)" in card and "timesteps 2, not 1" in card
    (row,) = (row for row in found["figures"] if row["name"] == "Frechet distance")
    value, low, high, real = (shown(row[key]) for key in ("value", "low", "high", "real"))
    expected = f"Frechet distance | {value} | {low} to {high} | {real} | 10 |"
    assert expected in card
    imagen = Imagen.from_pretrained(run)
    again = card_of(imagen, tmp_path / "again")
    assert expected in again and "on `mine` (validation)" in again and str(tmp_path) not in again
    with torch.no_grad():
        next(iter(imagen.stages[0].parameters())).add_(1)
    assert OTHER_WEIGHTS in card_of(imagen, tmp_path / "trained_on")
    weights = TrainingDirectory(run).weights("unet_0")
    trained = load_weights(weights)
    next(iter(trained.tensors.values())).add_(1)
    save_weights(weights, trained.tensors, trained.state)
    assert facts_of(TrainingDirectory(run)).figures == OTHER_WEIGHTS
    assert "not here any more: evaluate again" in write_report(TrainingDirectory(run)).read_text()
