"""Distances equal those of torchmetrics, or of numpy and scipy, on fixed features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minimagen.draws import generator
from minimagen.errors import UserError
from minimagen.evaluation.features import PretrainedFeatures
from minimagen.evaluation.metrics import (
    bootstrap_interval,
    frechet_distance,
    kid,
    precision_recall,
    spread,
    spreads,
    ssim,
)


def features(n: int, seed: int, shift: float = 0.0) -> Tensor:
    mixing = torch.randn(12, 12, generator=generator("mixing"), dtype=torch.float64)
    return torch.randn(n, 12, generator=generator(seed), dtype=torch.float64) @ mixing / 4 + shift


class AsTheyAre(nn.Module):
    """Features that are given instead of images."""

    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :12]


@pytest.mark.filterwarnings("ignore:Metric")
def test_the_kernel_distance_is_that_of_torchmetrics() -> None:
    kid_module = pytest.importorskip("torchmetrics.image.kid")
    a, b = features(40, 1), features(40, 2, shift=0.3)
    theirs = kid_module.KernelInceptionDistance(AsTheyAre(), subsets=1, subset_size=40).double()
    theirs.update(a.view(40, 12, 1, 1), real=False)
    theirs.update(b.view(40, 12, 1, 1), real=True)
    assert kid(a, b) == pytest.approx(float(theirs.compute()[0]), abs=1e-4)


@pytest.mark.filterwarnings("ignore:Metric")
def test_the_frechet_distance_is_that_of_torchmetrics() -> None:
    fid_module = pytest.importorskip("torchmetrics.image.fid")
    a, b = features(60, 1), features(80, 2, shift=0.3)
    theirs = fid_module.FrechetInceptionDistance(AsTheyAre()).set_dtype(torch.float64)
    theirs.update(a.view(60, 12, 1, 1), real=False)
    theirs.update(b.view(80, 12, 1, 1), real=True)
    assert frechet_distance(a, b) == pytest.approx(float(theirs.compute()), abs=1e-4)


def test_the_frechet_distance_is_that_of_symmetric_roots_in_numpy() -> None:
    a, b = features(60, 1).numpy(), features(80, 2, shift=0.3).numpy()
    values, axes = np.linalg.eigh(np.cov(a.T))
    root = axes @ np.diag(np.sqrt(values)) @ axes.T
    inner = np.sqrt(np.linalg.eigvalsh(root @ np.cov(b.T) @ root)).sum()
    traces = np.trace(np.cov(a.T)) + np.trace(np.cov(b.T))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * inner
    ours = frechet_distance(torch.from_numpy(a), torch.from_numpy(b))
    assert ours == pytest.approx(expected, abs=1e-4)


def test_structural_similarity_is_that_of_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.functional.image")
    a = torch.rand(3, 3, 32, 32, generator=generator("a"), dtype=torch.float64) * 2 - 1
    b = (a + 0.3 * torch.randn(a.shape, generator=generator("b"), dtype=torch.float64)).clamp(-1, 1)
    settings: dict[str, Any] = {
        "gaussian_kernel": True,
        "sigma": 1.5,
        "data_range": 2.0,
        "reduction": "none",
    }
    settings["return_full_image"] = True
    _, each = image.structural_similarity_index_measure(a, b, **settings)
    inside = each[..., 5:-5, 5:-5]  # theirs reflects the images at the border
    assert torch.allclose(ssim(a, b), inside.flatten(1).mean(1), atol=1e-4)
    assert torch.allclose(ssim(a, a), torch.ones(3, dtype=torch.float64))


def test_precision_and_recall_are_those_of_a_loop_over_all_points() -> None:
    a, real = features(30, 1, shift=0.4), features(25, 2)

    def inside(points: Tensor, manifold: Tensor) -> float:
        count = 0
        for point in points:
            found = False
            for center in manifold:
                radius = sorted(float((center - other).norm()) for other in manifold)[3]
                found = found or float((point - center).norm()) <= radius
            count += found
        return count / len(points)

    expected = inside(a, real), inside(real, a)
    assert precision_recall(a, real) == pytest.approx(expected, abs=1e-4)
    assert 0 < expected[0] < 1


def test_few_modes_are_precise_and_without_recall() -> None:
    real = features(50, 1)
    one_mode = real[:1] + 1e-3 * features(50, 2)
    precision, recall = precision_recall(one_mode, real)
    assert precision == 1.0 and recall < 0.1
    assert precision_recall(real, real) == (1.0, 1.0)


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    a = torch.randn(400, 1, generator=generator("a"), dtype=torch.float64)
    b = torch.zeros(400, 1, dtype=torch.float64)
    low, high = bootstrap_interval(lambda x, y: float(x.mean() - y.mean()), a, b)
    assert (low + high) / 2 == pytest.approx(float(a.mean()))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.4)


def test_the_spread_is_the_mean_distance_inside_captions() -> None:
    points = torch.tensor([[0.0], [3.0], [10.0], [11.0], [50.0]])
    assert spread(points, ["a", "a", "b", "b", "c"]) == pytest.approx((3 + 1) / 2)
    assert spreads(points, list("aabbc")).tolist() == [3.0, 1.0]
    assert spread(points, list("abcde")) is None


def test_a_vision_transformer_of_a_folder_gives_features_without_torchvision(
    tmp_path: Path,
) -> None:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **sizes)).eval()
    model.save_pretrained(tmp_path)
    crop = {"height": 28, "width": 28}
    BitImageProcessor(crop_size=crop, size={"shortest_edge": 28}).save_pretrained(tmp_path)
    images = torch.randint(0, 256, (70, 3, 28, 28), generator=generator("i")).to(torch.uint8)
    found = PretrainedFeatures(str(tmp_path), torch.device("cpu"))(images)
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.inference_mode():
        expected = model(pixel_values=(images.float() / 255 - mean) / std).pooler_output
    assert torch.allclose(found, expected, atol=1e-4)


def test_of_a_clip_the_half_that_sees_images_gives_features(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes["intermediate_size"] = 16
    vision = {"image_size": 28, "patch_size": 14, **sizes}
    model = CLIPModel(CLIPConfig(text_config=sizes, vision_config=vision)).eval()
    model.save_pretrained(tmp_path)
    CLIPImageProcessor(crop_size=28, size={"shortest_edge": 28}).save_pretrained(tmp_path)
    images = torch.randint(0, 256, (2, 3, 28, 28), generator=generator("i")).to(torch.uint8)
    found = PretrainedFeatures(str(tmp_path), torch.device("cpu"))
    with torch.inference_mode():
        seen = (images.float() / 255 - found._mean) / found._std
        expected = model.vision_model(pixel_values=seen).pooler_output
    assert torch.allclose(found(images), expected, atol=1e-4)


def test_weights_that_are_pickles_are_not_read(tmp_path: Path) -> None:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **sizes))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    BitImageProcessor(size={"shortest_edge": 28}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"`features` .*safetensors"):
        PretrainedFeatures(str(tmp_path), torch.device("cpu"))


def test_features_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`features`"):
        PretrainedFeatures(str(tmp_path), torch.device("cpu"))
