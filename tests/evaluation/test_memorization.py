"""Copies of training images are found, and images that are merely alike are not."""

import numpy as np
import torch
from torch import Tensor

from minimagen.data.loading.reading import stack_images
from minimagen.draws import generator
from minimagen.evaluation.features import Features, JudgeFeatures
from minimagen.evaluation.measure import Measurement
from minimagen.evaluation.memorization import find_copies, nearest, pair_sheet, small_pixels
from minimagen.evaluation.sets import Sets
from minimagen.sample import Sample
from minimagen.shapes.dataset import ShapesDataset

COUNT = 40


def vectors(n: int, seed: int) -> Tensor:
    return torch.randn(n, 8, generator=generator(seed))


def images(n: int, seed: int) -> Tensor:
    """Return smooth random images: their pixels at 8 px say which one it is."""
    small = torch.rand(n, 3, 8, 8, generator=generator(seed))
    return (255 * small).to(torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)


def as_they_are(each: Tensor) -> Tensor:
    return each


def test_copies_with_noise_are_found_and_other_images_are_not() -> None:
    known, held_out = vectors(100, 1), vectors(COUNT, 2)
    copied = known[:COUNT] + 0.05 * vectors(COUNT, 3)
    found = find_copies(copied, held_out, known, as_they_are)
    assert found.made.copies == 1.0 and found.held_out.copies == 0.0 and found.found
    assert found.made.row.tolist() == list(range(COUNT))
    healthy = find_copies(vectors(COUNT, 4), held_out, known, as_they_are)
    assert healthy.made.copies == 0.0 and not healthy.found


def test_what_held_out_images_share_with_the_training_is_no_copying() -> None:
    known = vectors(100, 1)
    near = known[:COUNT] + 0.05 * vectors(COUNT, 3)
    assert not find_copies(near, near, known, as_they_are).found


def test_few_held_out_images_say_little_however_often_they_are_repeated() -> None:
    known = vectors(100, 1)
    made = torch.cat([known[:10] + 0.01, vectors(190, 2)])
    few = vectors(10, 3)
    found = find_copies(made, few.repeat(20, 1), known, as_they_are)
    assert found.held_out.interval == find_copies(made, few, known, as_they_are).held_out.interval
    assert found.made.interval[0] < found.held_out.interval[1] and not found.found


def test_the_ratio_is_that_of_the_two_nearest_and_duplicates_count_once() -> None:
    known = torch.tensor([[0.0], [0.0], [10.0]])
    found = nearest(torch.tensor([[1.0], [9.0]]), known)
    assert torch.allclose(found.ratio, torch.tensor([1 / 9, 1 / 9]))
    assert found.row.tolist() == [0, 2]


def test_the_closest_pairs_come_first() -> None:
    training, made = images(12, 1), images(12, 2)
    made[5] = training[7]
    found = nearest(small_pixels(made), small_pixels(training))
    assert int(found.ratio.argmin()) == 5 and int(found.row[5]) == 7
    assert pair_sheet(made, training, found).width > 256


class Pixels(Features):
    name = "pixels"

    def __call__(self, each: Tensor) -> Tensor:
        return small_pixels(each)


def measured(made: Tensor, training: Tensor, held_out: Tensor) -> list[str]:
    def samples(tensor: Tensor) -> list[Sample]:
        return [Sample(t.permute(1, 2, 0).numpy(), f"caption {i}") for i, t in enumerate(tensor)]

    sets = Sets("mine", "validation", samples(held_out), samples(training))
    return Measurement(sets, Pixels(), made, made).memorization().verdicts


def test_a_run_that_learned_eight_images_by_heart_is_reported_and_a_healthy_one_is_not() -> None:
    training, held_out = images(8, 1), images(COUNT, 2)
    noise = 4 * torch.randn(COUNT, 3, 32, 32, generator=generator("n"))
    by_heart = (training.repeat(5, 1, 1, 1) + noise).clamp(0, 255).to(torch.uint8)
    assert any("MEMORIZED: 100 %" in line for line in measured(by_heart, training, held_out))
    (line,) = measured(images(COUNT, 3), training, held_out)
    assert line.startswith("No more copies of 8 training images of mine")


def test_real_images_of_other_captions_are_healthy_in_every_figure() -> None:
    """Held-out renders stand for a perfect cascade: at the floor, sensitive, no copies."""
    held_out = list(ShapesDataset("heldout", "simple", 32, seed=1, epoch_size=COUNT))
    training = list(ShapesDataset("train", "simple", 32, seed=0, epoch_size=200))
    sets = Sets("shapes", "heldout", held_out, training)
    made = stack_images(held_out)
    perfect = Measurement(sets, JudgeFeatures("simple"), made, stack_images(sets.seen))
    figures = {f.name: f for f in [*perfect.distances(), *perfect.sensitivity()]}
    frechet = figures["Frechet distance"]
    assert abs(frechet.value) < 1e-2 and frechet.real is not None and frechet.real > 0.1
    assert figures["precision"].value == figures["recall"].value == 100
    assert figures["nearer, own caption"].value == 100
    shuffled = figures["nearer, shuffled captions"]
    assert shuffled.low is not None and shuffled.high is not None
    assert shuffled.low < 50 < shuffled.high
    one = made[:1].expand(COUNT, -1, -1, -1)  # the same image for every caption
    alike = Measurement(sets, JudgeFeatures("simple"), one, one)
    figures = {f.name: f for f in alike.distances()}
    frechet = figures["Frechet distance"]
    assert frechet.real is not None and frechet.value > frechet.real
    assert figures["precision"].value == 100 and figures["recall"].value < 50


def test_labels_are_those_of_the_nearest_real_images() -> None:
    def flat(value: int, label: str, count: int) -> list[Sample]:
        return [Sample(np.full((32, 32, 3), value, np.uint8), label)] * count

    held_out = flat(0, "a", 2) + flat(255, "b", 2)
    sets = Sets("mine", "validation", held_out, flat(0, "a", 8) + flat(255, "b", 8))
    made = stack_images(held_out)
    for images_, share in ((made, 100), (made.flip(0), 0)):
        (figure, *_) = Measurement(sets, Pixels(), images_, images_).labels()
        assert figure.value == share
