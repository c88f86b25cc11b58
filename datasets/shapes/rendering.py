"""Images of filled shapes, rendered with signed distance functions in NumPy.

An image shows one shape ("star") in one fill ("striped") and one colour, in front of a background. A `Domain` controls
the nuisance factors: the small CLIPs are trained in `SOURCE`, the larger one in `WIDE` too; the dataset `shapes` uses
`TARGET`, which is shifted further (clutter, texture, noise, scale, position, rotation, colour cast, blur).

An image is a function of its attributes, its domain and its seed. The random numbers come from NumPy's `RandomState`,
whose stream NumPy guarantees never to change, and all arithmetic is float64, rounded to 8 bits at the end, so the same
seed gives the same image on every machine.

Coordinates: x to the right and y up, both from -1 to 1 over the image; a shape's own coordinates are rotated and divided
by its radius.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Random = np.random.RandomState

PIXELS = 64  # side of an image
# Brightness 0.3 to 0.6: lighter than any background, darker than any second tone.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.16, 0.14),
    "orange": (0.92, 0.46, 0.05),
    "yellow": (0.80, 0.66, 0.05),
    "green": (0.12, 0.62, 0.20),
    "cyan": (0.05, 0.66, 0.72),
    "blue": (0.20, 0.34, 0.95),
    "purple": (0.56, 0.24, 0.78),
    "pink": (0.93, 0.42, 0.66),
}


@dataclass(frozen=True)
class Domain:
    """Nuisance factors of images. Ranges are (low, high), sampled uniformly.

    Lengths are in half image sides, angles in degrees, strengths in units of the full tonal range (1.0).
    """

    radius: tuple[float, float]  # of the shape
    offset: float  # maximum distance of the shape from the centre, per axis
    rotation: float  # maximum rotation in either direction
    period: tuple[float, float]  # of the fill's pattern, in units of the radius
    ground: tuple[float, float]  # brightness of the background
    second: tuple[float, float]  # brightness of the fill's second tone
    clutter: tuple[int, int]  # number of small objects, most of them painted before the shape; high is exclusive
    bars: tuple[int, int]  # number of bars in front of the shape; high is exclusive
    texture: float  # maximum strength of the background's texture
    cast: float  # maximum change of a colour channel's gain
    blur: float  # maximum weight of a neighbouring pixel, per side
    noise: float  # maximum standard deviation of the pixel noise
    grey: float = 0  # fraction of the colour that is removed
    lines: float = 0  # weight of an edge image that replaces the image


SOURCE = Domain(
    radius=(0.52, 0.80),
    offset=0.14,
    rotation=15,
    period=(0.40, 0.60),
    ground=(0.02, 0.16),
    second=(0.88, 0.98),
    clutter=(0, 4),
    bars=(0, 1),
    texture=0.10,
    cast=0.10,
    blur=0.5,
    noise=0.04,
)
WIDE = Domain(
    radius=(0.48, 0.80),
    offset=0.16,
    rotation=20,
    period=(0.38, 0.62),
    ground=(0.02, 0.20),
    second=(0.82, 0.98),
    clutter=(0, 7),
    bars=(0, 2),
    texture=0.14,
    cast=0.18,
    blur=0.8,
    noise=0.06,
)
TARGET = Domain(
    radius=(0.46, 0.76),
    offset=0.20,
    rotation=22,
    period=(0.38, 0.62),
    ground=(0.02, 0.26),
    second=(0.78, 0.98),
    clutter=(3, 9),
    bars=(0, 2),
    texture=0.20,
    cast=0.25,
    blur=1.0,
    noise=0.08,
)


def render(fill: str, shape: str, colour: str, domain: Domain, seed: tuple[int, ...]) -> Array:
    """Render one image.

    Args:
        fill, shape, colour: keys of `FILLS`, `SHAPES` and `COLOURS`.
        domain: the nuisance factors.
        seed: non-negative integers below 2**32; all of them matter.

    Returns:
        uint8 array (PIXELS, PIXELS, 3).

    Raises:
        KeyError: the fill, shape or colour does not exist.
    """
    random = np.random.RandomState(seed)
    tone = np.clip(np.array(COLOURS[colour]) + random.uniform(-0.06, 0.06, 3), 0, 1)
    ground = np.clip(random.uniform(*domain.ground) + random.uniform(-0.06, 0.06, 3), 0, 1)
    image = ground + _texture(random, random.uniform(0, domain.texture))
    objects = random.randint(*domain.clutter)
    background = random.binomial(objects, 0.8)
    for _ in range(background):
        _add_small_object(random, image)
    image = _paint_shape(random, image, fill, shape, tone, domain)
    for _ in range(objects - background):
        _add_small_object(random, image)
    for _ in range(random.randint(*domain.bars)):
        image = _bar(random, image)
    image = _camera(random, image, domain)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


# ---------------------------------------- scene

_AXIS = (np.arange(PIXELS) + 0.5) / PIXELS * 2 - 1
_X, _Y = np.meshgrid(_AXIS, -_AXIS)


def _texture(random: Random, strength: float) -> Array:
    """Return a smooth random texture (PIXELS, PIXELS, 3): two grids of random numbers, upsampled bilinearly."""
    total = np.zeros((PIXELS, PIXELS, 3))
    for cells in (5, 13):
        position = np.linspace(0, cells - 1, PIXELS)
        weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))
        grid = random.uniform(-1, 1, (cells, cells, 1)) + random.uniform(-0.4, 0.4, (cells, cells, 3))
        for channel in range(3):
            total[..., channel] += weights @ grid[..., channel] @ weights.T
    return strength * total


def _coverage(distance: Array, unit: float) -> Array:
    """Return the fraction of each pixel inside a shape; `distance` is in units of `unit` half image sides."""
    return np.clip(0.5 - distance * (unit * PIXELS / 2), 0, 1)


def _blend(image: Array, tone: Array, coverage: Array) -> Array:
    return image + coverage[..., None] * (tone - image)


def _local(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Return coordinates rotated by `angle` degrees."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return cos * x + sin * y, cos * y - sin * x


def _paint_shape(random: Random, image: Array, fill: str, shape: str, tone: Array, domain: Domain) -> Array:
    radius = random.uniform(*domain.radius)
    centre = random.uniform(-domain.offset, domain.offset, 2)
    x, y = _local((_X - centre[0]) / radius, (_Y - centre[1]) / radius, random.uniform(-1, 1) * domain.rotation)
    distance = SHAPES[shape](x, y)
    inside = _coverage(distance, radius)
    sharpness = radius * PIXELS / 2
    paint = FILLS[fill](random, x, y, distance, random.uniform(*domain.period), sharpness)
    if fill == "hollow":
        return _blend(image, tone, inside * paint)
    second = random.uniform(*domain.second) * np.ones(3)
    return _blend(image, second + paint[..., None] * (tone - second), inside)


def _add_small_object(random: Random, image: Array) -> None:
    """Paint a small disc, box or stroke into `image` in place, at any position and in any tone."""
    centre, size, angle = random.uniform(-1, 1, 2), random.uniform(0.05, 0.16), random.uniform(0, 180)
    kind = ("disc", "box", "stroke")[random.randint(3)]
    tone, strength = random.uniform(0, 1, 3), random.uniform(0.5, 1)
    reach = 2.7 * size + 2 / PIXELS
    columns = np.flatnonzero(np.abs(_AXIS - centre[0]) < reach)
    rows = np.flatnonzero(np.abs(-_AXIS - centre[1]) < reach)
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    x, y = _local(_X[window] - centre[0], _Y[window] - centre[1], angle)
    if kind == "disc":
        distance = np.hypot(x, y) - size
    elif kind == "box":
        distance = np.maximum(np.abs(x), np.abs(y)) - size
    else:
        distance = np.maximum(np.abs(x) - 2.5 * size, np.abs(y) - 0.3 * size)
    image[window] = _blend(image[window], tone, strength * _coverage(distance, 1))


def _bar(random: Random, image: Array) -> Array:
    """Add a straight bar across the image."""
    x, _ = _local(_X, _Y, random.uniform(0, 180))
    distance = np.abs(x - random.uniform(-0.6, 0.6)) - random.uniform(0.03, 0.09)
    return _blend(image, random.uniform(0, 1, 3), _coverage(distance, 1))


def _camera(random: Random, image: Array, domain: Domain) -> Array:
    """Apply colour cast, blur, edges, pixel noise and greyness."""
    image = image * (1 + random.uniform(-domain.cast, domain.cast, 3))
    side = random.uniform(0, domain.blur)
    for axis in (0, 1):
        wide = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = (wide[:-2], wide[2:]) if axis == 0 else (wide[:, :-2], wide[:, 2:])
        image = (image + side * (before + after)) / (1 + 2 * side)
    if domain.lines:
        edges = np.hypot(*np.gradient(image, axis=(0, 1)))
        image = image + domain.lines * (np.clip(3 * edges, 0, 1) - image)
    image = image + random.uniform(0, domain.noise) * random.standard_normal(image.shape)
    if domain.grey:
        image = image + domain.grey * (image.mean(axis=-1, keepdims=True) - image)
    return image


# ---------------------------------------- shapes

# Each returns the signed distance, negative inside, of points in the shape's own coordinates (radius 1).


def _half_planes(x: Array, y: Array, count: int, reach: float, first: float) -> Array:
    """Regular polygon: `count` sides at distance `reach` from the centre, the first facing `first` degrees."""
    angles = np.deg2rad(first + 360 / count * np.arange(count))
    return np.max([np.cos(a) * x + np.sin(a) * y for a in angles], axis=0) - reach


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.92


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.95, y - 0.32), np.maximum(x - 0.32, y - 0.95))


def _heart(x: Array, y: Array) -> Array:
    tip = np.maximum(np.abs(x + y + 0.12), np.abs(x - y - 0.12)) / np.sqrt(2) - 0.56
    lobes = np.hypot(np.abs(x) - 0.40, y - 0.28) - 0.56
    return np.minimum(tip, lobes)


def _hexagon(x: Array, y: Array) -> Array:
    return _half_planes(x, y, 6, 0.84, 30)


def _moon(x: Array, y: Array) -> Array:
    return np.maximum(np.hypot(x, y) - 0.95, 0.72 - np.hypot(x - 0.48, y))


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.80


def _star(x: Array, y: Array) -> Array:
    """Five-pointed star: the wedge of the nearest tip, folded at its axis, is cut by one straight edge."""
    turn = np.deg2rad(72)
    angle = np.arctan2(x, y)
    angle = np.abs(angle - turn * np.rint(angle / turn))
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    inner = 0.47 * np.array([np.cos(turn / 2), np.sin(turn / 2)])
    edge = inner - np.array([1.05, 0])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (along - 1.05) * normal[0] + across * normal[1]


def _triangle(x: Array, y: Array) -> Array:
    return _half_planes(x, y + 0.20, 3, 0.56, 30)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "cross": _cross,
    "heart": _heart,
    "hexagon": _hexagon,
    "moon": _moon,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}


# ---------------------------------------- fills

# Each returns the weight of the shape's tone (0 to 1) at points in the shape's own coordinates; the rest is the second
# tone, or the background of a hollow shape. `sharpness` is the number of pixels per radius.


def _wave(phase: Array) -> Array:
    """Triangle wave of period 1 between -1 and 1."""
    return 4 * np.abs(phase - np.rint(phase)) - 1


def _step(wave: Array, period: float, sharpness: float) -> Array:
    """Threshold a wave at 0, with edges about one pixel wide."""
    return np.clip(0.5 + wave * (period * sharpness / 4), 0, 1)


def _checkered(random: Random, x: Array, y: Array, distance: Array, period: float, sharpness: float) -> Array:
    x, y = _local(x, y, random.uniform(-15, 15))
    period, phase = 1.3 * period, random.uniform(0, 1, 2)
    return _step(_wave(x / period + phase[0]) * _wave(y / period + phase[1]), period, sharpness)


def _dotted(random: Random, x: Array, y: Array, distance: Array, period: float, sharpness: float) -> Array:
    x, y = _local(x, y, random.uniform(30, 60))
    phase = random.uniform(0, 1, 2)
    x, y = x / period + phase[0], y / period + phase[1]
    return _step(np.hypot(x - np.rint(x), y - np.rint(y)) * 4 - 1.3, period, sharpness)


def _hollow(random: Random, x: Array, y: Array, distance: Array, period: float, sharpness: float) -> Array:
    return np.clip(0.5 + (distance + random.uniform(0.16, 0.24)) * sharpness, 0, 1)


def _plain(random: Random, x: Array, y: Array, distance: Array, period: float, sharpness: float) -> Array:
    return np.ones_like(x)


def _shaded(random: Random, x: Array, y: Array, distance: Array, period: float, sharpness: float) -> Array:
    along, _ = _local(x, y, random.uniform(0, 360))
    return np.clip(0.5 + 0.6 * along, 0, 1)


def _striped(random: Random, x: Array, y: Array, distance: Array, period: float, sharpness: float) -> Array:
    x, _ = _local(x, y, random.uniform(20, 70))
    return _step(_wave(x / period + random.uniform(0, 1)), period, sharpness)


def _wavy(random: Random, x: Array, y: Array, distance: Array, period: float, sharpness: float) -> Array:
    x, y = _local(x, y, random.uniform(70, 110))
    phase = random.uniform(0, 1, 2)
    bend = 0.16 * np.sin(2 * np.pi * (y / random.uniform(0.75, 1.0) + phase[1]))
    return _step(_wave((x + bend) / period + phase[0]), period, sharpness)


FILLS: dict[str, Callable[[Random, Array, Array, Array, float, float], Array]] = {
    "checkered": _checkered,
    "dotted": _dotted,
    "hollow": _hollow,
    "plain": _plain,
    "shaded": _shaded,
    "striped": _striped,
    "wavy": _wavy,
}
