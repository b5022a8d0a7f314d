"""Sizes of images: (height, width) in pixels, and the nearest of several to an aspect ratio."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

Size = tuple[int, int]
"""(height, width) in pixels."""


def _square(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


SquareOrSize = Annotated[Size, BeforeValidator(_square)]
"""A field of a size, for which a single number gives a square."""


def nearest(sizes: Sequence[Size], ratio: float) -> Size:
    """Return the size whose width : height is nearest to ``ratio``, by the factor between them."""
    return min(sizes, key=lambda size: abs(math.log(size[1] / size[0] / ratio)))


def scaled(size: Size, full: Size, to: Size) -> Size:
    """Return what ``size`` becomes when images of ``full`` px have ``to`` px instead."""
    return size[0] * to[0] // full[0], size[1] * to[1] // full[1]
