"""All figures of a cascade: real and generated images of one data set, compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from minimagen.between import unevenness
from minimagen.config import Size
from minimagen.data.loading.reading import stack_images
from minimagen.draws import rng
from minimagen.evaluation.features import Features
from minimagen.evaluation.figures import figure, mean, share
from minimagen.evaluation.judge import Judge, score
from minimagen.evaluation.memorization import Copies, find_copies, pair_sheet, small_pixels
from minimagen.evaluation.metrics import (
    bootstrap_interval,
    frechet_distance,
    kernel_distance,
    precision_recall,
    spread,
    spreads,
)
from minimagen.evaluation.sampler import Sampler
from minimagen.evaluation.sets import Sets
from minimagen.images import to_model_space, to_pil, to_uint8
from minimagen.sample import Sample
from minimagen.storage.figures import Figure
from minimagen.storage.image_files import contact_sheet

NEIGHBORS = 5  # of a training image that vote for a label
CAPTIONS, EACH = 8, 4  # captions of the diversity, images of each
FRAMES, PAIRS = 9, 8  # images of an interpolation, pairs of captions at most
FEWEST = 8  # images of a set that a distance is taken of
JUMP = 1e6  # median steps: more is a jump between images that do not change
SHOWN = 32  # images on a sheet


@dataclass
class Found:
    """Figures, findings in words, and sheets by title."""

    figures: list[Figure] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    sheets: dict[str, Image.Image] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """Generated images beside real ones; each method gives the figures of one question.

    Attributes:
        sets: The real images.
        features: What distances are measured in.
        made: uint8 [n 3 h w], images of the captions of ``sets.held_out``.
        made_seen: The same of the captions of ``sets.seen``.
    """

    sets: Sets
    features: Features
    made: Tensor
    made_seen: Tensor

    @cached_property
    def held_out(self) -> Tensor:
        """The held-out images, uint8 [n 3 h w]."""
        return stack_images(self.sets.held_out)

    @cached_property
    def training(self) -> Tensor:
        """The training images, uint8 [m 3 h w]."""
        return stack_images(self.sets.training)

    @cached_property
    def vectors(self) -> dict[str, Tensor]:
        """Features of every set of images, [n d]."""
        images = {"made": self.made, "real": self.held_out, "training": self.training}
        return {name: self.features(each) for name, each in images.items()}

    def distances(self) -> list[Figure]:
        """Return Frechet and kernel distance, precision and recall, beside those of real images."""
        n = min(len({s.name for s in self.sets.held_out}), len(self.training), len(self.made))
        if n < FEWEST:
            return []
        made, real = self.vectors["made"][:n], self.vectors["real"][:n]
        other = self.vectors["training"][:n]
        figures = []
        for name, distance in (
            ("Frechet distance", frechet_distance),
            ("kernel distance x 1000", kernel_distance),
        ):
            interval = bootstrap_interval(distance, made, real)
            floor = distance(other, real)
            figures += [figure("distance", name, distance(made, real), n, interval, floor)]
        ours, floors = precision_recall(made, real), precision_recall(other, real)
        for name, value, floor in zip(("precision", "recall"), ours, floors, strict=True):
            figures.append(share("distance", name, value, n, floor))
        return figures

    def labels(self) -> list[Figure]:
        """Return how often the label of the nearest training images is the caption's."""
        if not self.sets.labels:
            return []
        truth = [sample.caption for sample in self.sets.held_out]
        shuffled = rng(0, "shuffled captions").sample(truth, len(truth))
        made, real = (self._voted(self.vectors[name]) for name in ("made", "real"))
        n, ceiling = len(truth), _equal(real, truth)
        return [
            share("labels", "label accuracy", _equal(made, truth), n, ceiling),
            share("labels", "shuffled captions", _equal(made, shuffled), n),
        ]

    def _voted(self, vectors: Tensor) -> list[str]:
        names = self.sets.labels
        known = torch.tensor([names.index(s.caption) for s in self.sets.training])
        k = min(NEIGHBORS, len(known))
        near = torch.cdist(vectors, self.vectors["training"]).topk(k, largest=False).indices
        return [names[i] for i in known[near].mode(1).values.tolist()]

    def sensitivity(self) -> list[Figure]:
        """Return how often an image is nearer to the real one of its caption than to another.

        Against shuffled captions it is chance, 50 %.
        """
        rows = list(range(len(self.made)))
        own, other = (rng(0, name).sample(rows, len(rows)) for name in ("own", "other"))
        pairs = {"own caption": (rows, other), "shuffled captions": (own, other)}
        return [
            share("caption sensitivity", f"nearer, {name}", *self._nearer(*pair))
            for name, pair in pairs.items()
        ]

    def _nearer(self, own: list[int], other: list[int]) -> tuple[float, int]:
        captions = [sample.caption for sample in self.sets.held_out]
        rows = [i for i, (a, b) in enumerate(zip(own, other, strict=True)) if
                captions[a] != captions[b]]  # fmt: skip
        if not rows:
            return 0.5, 1
        made, real = self.vectors["made"][rows], self.vectors["real"]
        near = (made - real[[own[i] for i in rows]]).norm(dim=1)
        far = (made - real[[other[i] for i in rows]]).norm(dim=1)
        return float((near < far).double().mean()), len(rows)

    def memorization(self) -> Found:
        """Return the shares of copies in pixels and features, a finding, the closest pairs."""
        found = Found()
        for name, vectors in (("pixels", small_pixels), ("features", self.features)):
            copies = find_copies(self.made_seen, self.held_out, self.training, vectors)
            n, real = len(self.made_seen), copies.held_out.copies
            found.figures.append(
                share("memorization", f"copies in {name}", copies.made.copies, n, real)
            )
            if copies.found:
                found.verdicts.append(_copied(copies, name))
            title = f"The {min(n, 10)} closest pairs in {name}: generated, training image"
            found.sheets[title] = pair_sheet(self.made_seen, self.training, copies.made)
        if not found.verdicts:
            found.verdicts.append(
                f"No more copies of {len(self.training)} training images of {self.sets.title} "
                "than among held-out ones"
            )
        return found


def _equal(ours: Sequence[str], truth: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(ours, truth, strict=True)) / len(truth)


def _copied(copies: Copies, name: str) -> str:
    low, high = (100 * end for end in copies.made.interval)
    return (
        f"MEMORIZED: {100 * copies.made.copies:.0f} % of the images (95 % interval {low:.0f} to "
        f"{high:.0f}) are copies of training images in {name}; {100 * copies.held_out.copies:.0f} "
        "% of held-out images are that close to one"
    )


def attributes(judge: Judge, images: Tensor, samples: Sequence[Sample], split: str) -> list[Figure]:
    """Return accuracies per attribute, the judge's own on real renders beside them, and chance."""
    group, truth = f"attributes, {split}", [sample.attributes for sample in samples]
    verdicts = judge(images)
    made, real = score(verdicts, truth), score(judge(stack_images(samples)), truth)
    chance = score(verdicts, rng(0, "shuffled captions").sample(truth, len(truth)))["all"]
    figures = [
        share(group, name, made[name], sum(name in t for t in truth) or len(truth), real[name])
        for name in made
    ]
    return [*figures, share(group, "all, shuffled captions", chance, len(truth))]


def super_resolution(
    scores: Sequence[Mapping[str, Tensor]], sizes: Sequence[Size], names: Sequence[str]
) -> list[Figure]:
    """Return color shift, PSNR and SSIM of every stage but the first; bicubic stands beside.

    Args:
        scores: Of each of these stages, what ``enlarging`` measured of each image, [n].
        sizes: Their sizes.
        names: Those of the images [n]; what is repeated is no further sample.
    """
    figures, n = [], len(names)
    for each, (height, width) in zip(scores, sizes, strict=True):
        group = f"super-resolution to {width} x {height}"
        bicubic = {what: float(each[f"{what}_bicubic"].mean()) for what in ("psnr", "ssim")}
        figures += [
            mean(group, "color shift, 1/255", each["color_shift"], n, names),
            mean(group, "PSNR to the input", each["psnr_input"], n, names, unit="dB"),
            mean(group, "PSNR of real images enlarged (bicubic beside)", each["psnr_truth"], n,
                 names, bicubic["psnr"], "dB"),
            mean(group, "SSIM of real images enlarged (bicubic beside)", each["ssim_truth"], n,
                 names, bicubic["ssim"]),
        ]  # fmt: skip
    return figures


def diversity(sampler: Sampler, measured: Measurement) -> Found:
    """Return how far images of one caption are apart, relative to real images of any caption.

    The interval is over captions; the distance of real images is taken as it is.
    """
    captions = list(dict.fromkeys(s.caption for s in measured.sets.held_out))[:CAPTIONS]
    repeated = [caption for caption in captions for _ in range(EACH)]
    images = to_uint8(sampler(repeated)[-1])
    real = measured.vectors["real"]
    apart = max(spread(real, [""] * len(real)) or 1.0, 1e-12)
    values = spreads(measured.features(images), repeated) / apart
    own = spread(real, [sample.caption for sample in measured.sets.held_out])
    floor = None if own is None else own / apart
    made = mean("diversity", "per caption, of real images' distance", values, len(images),
                real=floor)  # fmt: skip
    columns = [to_pil(to_model_space(images[i::EACH])) for i in range(EACH)]
    sheet = contact_sheet(captions, columns)
    return Found([made], [], {f"Diversity: {EACH} images of each caption": sheet})


def smoothness(sampler: Sampler, captions: Sequence[str]) -> Found:
    """Return the largest step between two captions over the median one, of even embeddings.

    It is the mean over pairs of captions, no caption in two of them; the interval is over pairs.
    """
    distinct = list(dict.fromkeys(captions))[: 2 * PAIRS]
    pairs = list(zip(distinct[::2], distinct[1::2], strict=False)) or [(captions[0], captions[0])]
    paths = [sampler.between(first, last, FRAMES) for first, last in pairs]
    values = torch.tensor([min(unevenness(frames), JUMP) for frames in paths], dtype=torch.float64)
    sheet = contact_sheet([f"{i}/{FRAMES - 1}" for i in range(FRAMES)], [paths[0]])
    one = mean("interpolation", "largest step / median step", values, FRAMES * len(paths))
    return Found([one], [], {"Interpolation from {!r} to {!r}".format(*pairs[0]): sheet})


def image_sheet(captions: Sequence[str], stages: Sequence[Tensor]) -> Image.Image:
    """Return the first images of every stage, [n 3 h w], with their captions."""
    shown = [to_pil(to_model_space(stage[:SHOWN])) for stage in stages]
    return contact_sheet(list(captions[:SHOWN]), shown)


def measure(
    sampler: Sampler, sets: Sets, features: Features, made: Sequence[Tensor], seen: Sequence[Tensor]
) -> Found:
    """Return all that is measured whatever the data.

    Args:
        sampler: The cascade.
        sets: Real images.
        features: What distances are measured in.
        made: Every stage's images of the held-out captions, float32 in [-1, 1].
        seen: Likewise of the captions of ``sets.seen``.
    """
    captions = [sample.caption for sample in sets.held_out]
    measured = Measurement(sets, features, to_uint8(made[-1]), to_uint8(seen[-1]))
    found = Found([*measured.distances(), *measured.labels(), *measured.sensitivity()])
    found.sheets = {
        f"Captions of {sets.split}": image_sheet(captions, made),
        "Captions of the training": image_sheet([s.caption for s in sets.seen], seen),
    }
    for part in (
        diversity(sampler, measured),
        measured.memorization(),
        smoothness(sampler, captions),
    ):
        found.figures += part.figures
        found.verdicts += part.verdicts
        found.sheets |= part.sheets
    return found
