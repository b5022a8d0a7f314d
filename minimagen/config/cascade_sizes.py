"""The sizes of a cascade's images: scaled, and of other aspect ratios (width : height)."""

import math

from minimagen.config.data import DataConfig
from minimagen.config.imagen import ImagenConfig
from minimagen.config.sizes import Size, nearest, scaled
from minimagen.errors import UserError

LATENTS = 8  # px: a side of Stable Diffusion's latents is an eighth of the image's
WIDEST = 2.5  # longer side : shorter side of a bucket's images, at most


def with_side(config: ImagenConfig, side: int) -> ImagenConfig:
    """Return the cascade scaled so that the final images' longer side is ``side`` px.

    Raises:
        UserError: A stage would not have whole sides that its network can halve.
    """
    longest, step = max(config.data_size), 1
    sized = [(size, config.divisor_of(i)) for i, size in enumerate(config.image_sizes)]
    sized += [(each.image_size, each.factor) for each in config.autoencoders]
    clip = config.clip
    if clip is not None:
        sized.append((clip.image_size, clip.image.divisor))
    for size, divisor in sized:
        for n in size:  # n * side / longest must be a multiple of the divisor
            multiple = divisor * longest
            step = math.lcm(step, multiple // math.gcd(multiple, n))
    if side % step:
        near = [n for n in (side // step * step, (side // step + 1) * step) if n]
        raise UserError(
            f"`img_side_len` {side}: this cascade needs a multiple of {step}, so that the images "
            f"of every stage have sides its network can halve; use {' or '.join(map(str, near))}"
        )

    def at_side(size: Size) -> Size:
        return size[0] * side // longest, size[1] * side // longest

    if clip is not None:
        clip = clip.replace(image_size=at_side(clip.image_size))
    autoencoders = [
        each.replace(image_size=at_side(each.image_size)) for each in config.autoencoders
    ]
    sizes = tuple(map(at_side, config.image_sizes))
    return config.replace(image_sizes=sizes, clip=clip, autoencoders=autoencoders)


def sizes_of_ratio(config: ImagenConfig, aspect_ratio: float | None) -> list[Size]:
    """Return the size of every stage's images, nearest to width : height; their own for None.

    Raises:
        UserError: The ratio is no number above 0.
    """
    if aspect_ratio is None:
        return list(config.image_sizes)
    if not isinstance(aspect_ratio, int | float) or not 0 < aspect_ratio < math.inf:
        raise UserError(f"aspect_ratio {aspect_ratio!r} is not a number above 0, such as 1.5")
    last = nearest(aspect_buckets(config), aspect_ratio)
    return [scaled(size, config.image_sizes[-1], last) for size in config.image_sizes]


def aspect_buckets(config: ImagenConfig) -> tuple[Size, ...]:
    """Return the sizes in which the last stage samples images of other aspect ratios.

    Each has at most as many pixels as the cascade's own size, and as nearly as many as the networks
    allow: for every possible height the largest possible width, and the other way round. Sides
    change in steps of at least an eighth. They go from tall to wide; the own size is one of them.

    Raises:
        UserError: The stages do not grow by whole factors, the same in both directions.
    """
    first, last = config.image_sizes[0], config.image_sizes[-1]
    area, step = math.prod(first), _step(config)
    factor = last[0] // first[0]
    sides = range(step, area // step + 1, step)
    fitting = [(side, area // side // step * step) for side in sides]
    candidates = {first, *fitting, *((width, height) for height, width in fitting)}
    kept = [
        size
        for size in candidates
        if max(size) <= WIDEST * min(size) or size == first
        if not any(s != size and s[0] >= size[0] and s[1] >= size[1] for s in candidates)
    ]
    scaled = [(factor * height, factor * width) for height, width in kept]
    return tuple(sorted(scaled, key=lambda size: size[1] / size[0]))


def trained_sizes(config: ImagenConfig, data: DataConfig) -> tuple[Size, ...]:
    """Return the sizes of the buckets that a training divided its data by; none without buckets."""
    return aspect_buckets(config) if data.aspect_buckets else ()


def _step(config: ImagenConfig) -> int:
    """Return what both sides of the first stage's images must be multiples of."""
    first, step = config.image_sizes[0], 1
    for i, size in enumerate(config.image_sizes):
        if size[0] % first[0] or size[0] * first[1] != size[1] * first[0]:
            raise UserError(
                f"aspect buckets need stages that grow by whole factors, the same in both "
                f"directions, given {first[0]} x {first[1]} and {size[0]} x {size[1]}"
            )
        divisor = config.divisor_of(i)
        if config.stages[i].kind == "diffusers" and config.stages[i].autoencoder is not None:
            divisor *= LATENTS
        step = math.lcm(step, divisor // math.gcd(divisor, size[0] // first[0]))
    return step * math.ceil(min(first) / 8 / step)
