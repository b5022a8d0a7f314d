"""Shapes, colors and patterned backgrounds, drawn anti-aliased with Pillow."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

# Far apart in RGB, so that the name of a color that is drawn is never a matter of taste.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 40),
    "orange": (255, 130, 0),
    "yellow": (255, 225, 30),
    "green": (30, 160, 60),
    "cyan": (40, 215, 225),
    "blue": (30, 70, 225),
    "purple": (130, 40, 170),
    "pink": (255, 140, 190),
    "white": (250, 250, 250),
    "black": (15, 15, 15),
}
PATTERNS = ("plain", "striped", "checkered", "dotted")
PERIOD = 1 / 3  # of every pattern, as a fraction of the side: bands stay visible at 16 x 16

Polygon = np.ndarray  # float [n, 2], x to the right and y down, the shape spans about [-1, 1]


def _arc(radius: float, start: float, end: float, x: float = 0.0, points: int = 32) -> Polygon:
    """Return points on a circle's arc around (x, 0); angles in degrees, clockwise from right."""
    angle = np.radians(np.linspace(start, end, points))
    return np.stack([x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _star() -> Polygon:
    """Return a five-pointed star with its tip up."""
    angle = np.radians(np.arange(10) * 36 - 90)
    radius = np.where(np.arange(10) % 2 == 0, 1.14, 0.48)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) + 0.09], axis=1)


def _heart() -> Polygon:
    """Return the well-known parametric heart, tip down."""
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3 / 16, -(y + 2.5) / 15.5], axis=1)


def _cross() -> Polygon:
    """Return an upright plus sign with arms of a third of its width."""
    a, b = 0.33, 1.0
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    corners += [(a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    return np.array(corners)


def _moon() -> Polygon:
    """Return a crescent open to the right: a disc less a smaller disc pushed to the right."""
    inner, shift = 0.78, 0.5
    # Where the two circles meet: x^2 + y^2 = 1 and (x - shift)^2 + y^2 = inner^2.
    x = (1 + shift**2 - inner**2) / (2 * shift)
    outer_angle = math.degrees(math.acos(x))
    inner_angle = math.degrees(math.atan2(math.sqrt(1 - x * x), x - shift))
    outside = _arc(1.0, outer_angle, 360 - outer_angle)
    inside = _arc(inner, 360 - inner_angle, inner_angle, shift)
    return np.concatenate([outside, inside]) + [0.15, 0.0]


# Each shape is a list of outlines: the first is filled, any other is cut out of it.
SHAPES: dict[str, tuple[Polygon, ...]] = {
    "circle": (_arc(1.0, 0, 360, points=48),),
    "square": (np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),),
    "triangle": (np.array([(0.0, -1.0), (1.05, 0.85), (-1.05, 0.85)]),),
    "star": (_star(),),
    "heart": (_heart(),),
    "cross": (_cross(),),
    "ring": (_arc(1.0, 0, 360, points=48), _arc(0.55, 0, 360)),
    "moon": (_moon(),),
}


def shape_mask(
    shape: str, size: int, center: tuple[float, float], extent: float, degrees: float = 0.0
) -> Image.Image:
    """Return an anti-aliased mask in mode "L", size x size: 255 inside the shape, 0 outside.

    Args:
        shape: a key of SHAPES.
        size: the image's side in pixels.
        center: (x, y) as fractions of the side.
        extent: the shape's width as a fraction of the side.
        degrees: angle, clockwise.
    """
    over = 4 if size <= 128 else 2
    mask = Image.new("L", (size * over, size * over))
    pen = ImageDraw.Draw(mask)
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    turn = np.array([(cos, sin), (-sin, cos)]) * (extent / 2 * size * over)
    for hole, outline in enumerate(SHAPES[shape]):
        points = outline @ turn + np.array(center) * (size * over)
        pen.polygon(points.ravel().tolist(), fill=0 if hole else 255)
    return mask.reduce(over)


@lru_cache(maxsize=256)
def _pattern_mask(pattern: str, size: int, shift_x: float, shift_y: float) -> Image.Image:
    """Return where a pattern's second shade is, as a mask in mode "L"."""
    over = 4
    place = (np.arange(size * over) + 0.5) / (size * over)
    x, y = (place[None, :] + shift_x) / PERIOD % 1, (place[:, None] + shift_y) / PERIOD % 1
    if pattern == "striped":
        inside = np.broadcast_to(y < 0.5, (y.size, x.size))
    elif pattern == "checkered":
        inside = (x < 0.5) ^ (y < 0.5)
    else:
        inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.34**2
    return Image.fromarray(inside.astype(np.uint8) * 255).reduce(over)


def second_shade(color: str) -> tuple[int, int, int]:
    """Return the shade a pattern alternates with: darker, and lighter only for black."""
    if color == "black":
        return (70, 70, 70)
    red, green, blue = (round(0.55 * value) for value in COLORS[color])
    return (red, green, blue)


def background(
    color: str, pattern: str, size: int, shift: tuple[float, float] = (0.0, 0.0)
) -> Image.Image:
    """Return a fresh RGB image, size x size, of one of COLORS and PATTERNS.

    The pattern moves left and up by ``shift``, fractions of the side. The patterns are cached, so
    draw the shifts from a small set.
    """
    image = Image.new("RGB", (size, size), COLORS[color])
    if pattern != "plain":
        image.paste(second_shade(color), mask=_pattern_mask(pattern, size, *shift))
    return image
