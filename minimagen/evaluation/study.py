"""A whole evaluation: samples captions that were trained on and others, and measures everything."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from minimagen.data.loading.reading import stack_images
from minimagen.errors import UserError
from minimagen.evaluation.clip import alignment, caption_vectors, vectors_of
from minimagen.evaluation.evaluate import Evaluation, enlarging, evaluate
from minimagen.evaluation.features import Features
from minimagen.evaluation.figures import mean, share
from minimagen.evaluation.judge import Judge
from minimagen.evaluation.measure import Found, attributes, measure, super_resolution
from minimagen.evaluation.sampler import Sampler
from minimagen.evaluation.sets import Sets
from minimagen.images import to_model_space, to_uint8
from minimagen.storage.figures import Figure, Record
from minimagen.text.clip import Clip


@dataclass(frozen=True)
class Study:
    """What was sampled and found.

    Attributes:
        record: What ``evaluation.json`` gets.
        found: The same, with sheets of images.
        images: Every stage's images of the held-out captions, uint8 [n 3 h w].
        judged: What the judge says, where there is one.
    """

    record: Record
    found: Found
    images: Sequence[Tensor]
    judged: Evaluation | None


def study(
    sampler: Sampler,
    sets: Sets,
    features: Features,
    judge: Judge | None = None,
    clip: Clip | None = None,
) -> Study:
    """Sample and measure; the judge is that of the embedded data.

    Raises:
        UserError: There is a CLIP, and it has no captions to compare.
    """
    held_out = list(sets.held_out)
    if clip is not None and len({sample.caption for sample in held_out}) < 2:
        raise UserError("all held-out captions are equal: leave out `clip`, which compares them")
    seen = sampler([sample.caption for sample in sets.seen])
    figures: list[Figure] = []
    result, options = None, sampler.options
    if judge is None:
        made = sampler([sample.caption for sample in held_out])
        images = [to_uint8(stage) for stage in made]
        enlarged = enlarging(sampler.imagen, made, held_out, sampler.samplings, **options)
    else:
        result, images = evaluate(sampler.imagen, held_out, judge, sampler.samplings, **options)
        made, enlarged = [to_model_space(stage) for stage in images], result.super_resolution
        figures += attributes(judge, images[-1], held_out, sets.split)
        figures += attributes(judge, to_uint8(seen[-1]), sets.seen, "seen in training")
    found = measure(sampler, sets, features, made, seen)
    sizes, names = sampler.imagen.config.image_sizes[1:], [sample.name for sample in held_out]
    figures += [*found.figures, *super_resolution(enlarged, sizes, names)]
    if clip is not None:
        figures += aligned(clip, images[-1], sets)
    found.figures = figures
    return Study(record_of(sampler, sets, features, found), found, images, result)


def aligned(clip: Clip, images: Tensor, sets: Sets) -> list[Figure]:
    """Return the alignment and R-precision of uint8 images [n 3 h w] by a CLIP."""
    captions = [sample.caption for sample in sets.held_out]
    texts, n = caption_vectors(clip, captions), len(images)
    made, real = (
        alignment(vectors_of(clip, each), texts, captions)
        for each in (images, stack_images(sets.held_out))
    )
    units = [sample.name for sample in sets.held_out]
    shares = [float(each.nearest.double().mean()) for each in (made, real)]
    return [
        mean("CLIP", "alignment", made.gap, n, units, float(real.gap.mean())),
        share("CLIP", "R-precision", shares[0], n, shares[1]),
    ]


def record_of(sampler: Sampler, sets: Sets, features: Features, found: Found) -> Record:
    """Return what ``evaluation.json`` says."""
    return Record(
        date=time.strftime("%Y-%m-%d %H:%M"),
        device=str(sampler.imagen.device),
        dataset=sets.title,
        split=sets.split,
        features=features.name,
        seed=sampler.seed,
        sampling=tuple(each.model_dump(mode="json") for each in sampler.samplings),
        figures=tuple(found.figures),
        verdicts=tuple(found.verdicts),
    )
