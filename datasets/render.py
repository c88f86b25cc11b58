"""Pictures of filled shapes, drawn with signed distances in NumPy: the world of `shapes` and its small CLIPs.

A picture shows one shape ("star") in one fill ("striped") and one colour, in front of a background. How
much stands in its way is a `Domain`: the small CLIPs are trained in `SOURCE`, the larger one in `WIDE` too;
the dataset `shapes` lies in `TARGET`, which is shifted further (clutter, texture, noise, scale, place,
rotation, colour cast, blur).

A picture is a function of its attributes, its domain and its seed. The random numbers come from NumPy's
`RandomState`, whose stream NumPy promises never to change, and all arithmetic is float64, rounded to 8 bits
at the end, so that the same seed gives the same picture everywhere.

Coordinates: x to the right and y up, both from -1 to 1 over the picture; a shape's own coordinates are
turned by its rotation and divided by its radius.
"""

from dataclasses import dataclass

import numpy as np

PIXELS = 64  # side of a picture
COLOURS = {  # of middling brightness, 0.3 to 0.6: lighter than any background, darker than any second tone
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
    """What pictures look like apart from the shape they show. Ranges are (low, high), drawn uniformly.

    Lengths are in half picture sides, angles in degrees, strengths in units of the full tonal range (1.0).
    """

    radius: tuple[float, float]  # of the shape
    offset: float  # greatest distance of the shape from the centre, each way
    rotation: float  # greatest rotation, either way
    period: tuple[float, float]  # of the fill's pattern, in units of the radius
    ground: tuple[float, float]  # brightness of the background
    second: tuple[float, float]  # brightness of the fill's second tone
    clutter: tuple[int, int]  # number of small things, most of them behind the shape; high is exclusive
    bars: tuple[int, int]  # number of bars that stand in front of it; high is exclusive
    texture: float  # greatest strength of the background's texture
    cast: float  # greatest change of a colour channel's gain
    blur: float  # greatest weight of a neighbouring pixel, each way
    noise: float  # greatest standard deviation of the pixel noise
    grey: float = 0  # share of the colour that is taken away
    lines: float = 0  # share of the picture that is a drawing of its edges instead


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


def draw(fill: str, shape: str, colour: str, domain: Domain, seed: tuple[int, ...]) -> np.ndarray:
    """One picture: uint8, (PIXELS, PIXELS, 3).

    Args:
        fill, shape, colour: keys of `FILLS`, `SHAPES` and `COLOURS`.
        seed: non-negative integers below 2**32; all of them matter.

    Raises:
        KeyError: the fill, shape or colour does not exist.
    """
    random = np.random.RandomState(seed)
    tone = np.clip(np.array(COLOURS[colour]) + random.uniform(-0.06, 0.06, 3), 0, 1)
    ground = np.clip(random.uniform(*domain.ground) + random.uniform(-0.06, 0.06, 3), 0, 1)
    picture = ground + _texture(random, random.uniform(0, domain.texture))
    things = random.randint(*domain.clutter)
    behind = random.binomial(things, 0.8)
    for _ in range(behind):
        _add_small_thing(random, picture)
    picture = _paint_shape(random, picture, fill, shape, tone, domain)
    for _ in range(things - behind):
        _add_small_thing(random, picture)
    for _ in range(random.randint(*domain.bars)):
        picture = _bar(random, picture)
    picture = _camera(random, picture, domain)
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)


# ---------------------------------------- the scene

_AXIS = (np.arange(PIXELS) + 0.5) / PIXELS * 2 - 1
_X, _Y = np.meshgrid(_AXIS, -_AXIS)


def _texture(random, strength):
    """Smooth random texture, (PIXELS, PIXELS, 3): two grids of random numbers, bilinearly enlarged."""
    total = np.zeros((PIXELS, PIXELS, 3))
    for cells in (5, 13):
        place = np.linspace(0, cells - 1, PIXELS)
        weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells)))
        grid = random.uniform(-1, 1, (cells, cells, 1)) + random.uniform(-0.4, 0.4, (cells, cells, 3))
        for channel in range(3):
            total[..., channel] += weights @ grid[..., channel] @ weights.T
    return strength * total


def _coverage(distance, unit):
    """Share of each pixel that is inside a shape; `distance` is in units of `unit` half picture sides."""
    return np.clip(0.5 - distance * (unit * PIXELS / 2), 0, 1)


def _blend(picture, tone, coverage):
    return picture + coverage[..., None] * (tone - picture)


def _local(x, y, angle):
    """Coordinates turned by `angle` degrees."""
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return cos * x + sin * y, cos * y - sin * x


def _paint_shape(random, picture, fill, shape, tone, domain):
    radius = random.uniform(*domain.radius)
    centre = random.uniform(-domain.offset, domain.offset, 2)
    x, y = _local((_X - centre[0]) / radius, (_Y - centre[1]) / radius, random.uniform(-1, 1) * domain.rotation)
    distance = SHAPES[shape](x, y)
    inside = _coverage(distance, radius)
    sharpness = radius * PIXELS / 2
    paint = FILLS[fill](random, x, y, distance, random.uniform(*domain.period), sharpness)
    if fill == "hollow":
        return _blend(picture, tone, inside * paint)
    second = random.uniform(*domain.second) * np.ones(3)
    return _blend(picture, second + paint[..., None] * (tone - second), inside)


def _add_small_thing(random, picture):
    """Paint a small disc, box or stroke into `picture`, anywhere, in any tone."""
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
    picture[window] = _blend(picture[window], tone, strength * _coverage(distance, 1))


def _bar(random, picture):
    """A straight bar right across the picture."""
    x, _ = _local(_X, _Y, random.uniform(0, 180))
    distance = np.abs(x - random.uniform(-0.6, 0.6)) - random.uniform(0.03, 0.09)
    return _blend(picture, random.uniform(0, 1, 3), _coverage(distance, 1))


def _camera(random, picture, domain):
    """Colour cast, blur, edges, pixel noise and greyness."""
    picture = picture * (1 + random.uniform(-domain.cast, domain.cast, 3))
    side = random.uniform(0, domain.blur)
    for axis in (0, 1):
        wide = np.pad(picture, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = (wide[:-2], wide[2:]) if axis == 0 else (wide[:, :-2], wide[:, 2:])
        picture = (picture + side * (before + after)) / (1 + 2 * side)
    if domain.lines:
        edges = np.hypot(*np.gradient(picture, axis=(0, 1)))
        picture = picture + domain.lines * (np.clip(3 * edges, 0, 1) - picture)
    picture = picture + random.uniform(0, domain.noise) * random.standard_normal(picture.shape)
    if domain.grey:
        picture = picture + domain.grey * (picture.mean(axis=-1, keepdims=True) - picture)
    return picture


# ---------------------------------------- shapes

# Each gives the signed distance, negative inside, of points in the shape's own coordinates (of radius 1).


def _half_planes(x, y, count, reach, first):
    """A regular polygon: `count` sides, `reach` from the centre, the first of them facing `first` degrees."""
    angles = np.deg2rad(first + 360 / count * np.arange(count))
    return np.max([np.cos(a) * x + np.sin(a) * y for a in angles], axis=0) - reach


def _circle(x, y):
    return np.hypot(x, y) - 0.92


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.95, y - 0.32), np.maximum(x - 0.32, y - 0.95))


def _heart(x, y):
    tip = np.maximum(np.abs(x + y + 0.12), np.abs(x - y - 0.12)) / np.sqrt(2) - 0.56
    lobes = np.hypot(np.abs(x) - 0.40, y - 0.28) - 0.56
    return np.minimum(tip, lobes)


def _hexagon(x, y):
    return _half_planes(x, y, 6, 0.84, 30)


def _moon(x, y):
    return np.maximum(np.hypot(x, y) - 0.95, 0.72 - np.hypot(x - 0.48, y))


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 0.80


def _star(x, y):
    """Five points: the nearest tip's wedge, folded at its axis, is cut by one straight edge."""
    turn = np.deg2rad(72)
    angle = np.arctan2(x, y)
    angle = np.abs(angle - turn * np.rint(angle / turn))
    radius = np.hypot(x, y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    inner = 0.47 * np.array([np.cos(turn / 2), np.sin(turn / 2)])
    edge = inner - np.array([1.05, 0])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (along - 1.05) * normal[0] + across * normal[1]


def _triangle(x, y):
    return _half_planes(x, y + 0.20, 3, 0.56, 30)


SHAPES = {
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

# Each gives the share of the shape's tone (0 to 1) at points in the shape's own coordinates; the rest is the
# second tone, or what lies behind a hollow shape. `sharpness` is the number of pixels in a radius.


def _wave(phase):
    """A triangle wave of period 1 between -1 and 1."""
    return 4 * np.abs(phase - np.rint(phase)) - 1


def _step(wave, period, sharpness):
    """The wave's upper half, with edges of about a pixel."""
    return np.clip(0.5 + wave * (period * sharpness / 4), 0, 1)


def _checkered(random, x, y, distance, period, sharpness):
    x, y = _local(x, y, random.uniform(-15, 15))
    period, phase = 1.3 * period, random.uniform(0, 1, 2)
    return _step(_wave(x / period + phase[0]) * _wave(y / period + phase[1]), period, sharpness)


def _dotted(random, x, y, distance, period, sharpness):
    x, y = _local(x, y, random.uniform(30, 60))
    phase = random.uniform(0, 1, 2)
    x, y = x / period + phase[0], y / period + phase[1]
    return _step(np.hypot(x - np.rint(x), y - np.rint(y)) * 4 - 1.3, period, sharpness)


def _hollow(random, x, y, distance, period, sharpness):
    return np.clip(0.5 + (distance + random.uniform(0.16, 0.24)) * sharpness, 0, 1)


def _plain(random, x, y, distance, period, sharpness):
    return np.ones_like(x)


def _shaded(random, x, y, distance, period, sharpness):
    along, _ = _local(x, y, random.uniform(0, 360))
    return np.clip(0.5 + 0.6 * along, 0, 1)


def _striped(random, x, y, distance, period, sharpness):
    x, _ = _local(x, y, random.uniform(20, 70))
    return _step(_wave(x / period + random.uniform(0, 1)), period, sharpness)


def _wavy(random, x, y, distance, period, sharpness):
    x, y = _local(x, y, random.uniform(70, 110))
    phase = random.uniform(0, 1, 2)
    bend = 0.16 * np.sin(2 * np.pi * (y / random.uniform(0.75, 1.0) + phase[1]))
    return _step(_wave((x + bend) / period + phase[0]), period, sharpness)


FILLS = {
    "checkered": _checkered,
    "dotted": _dotted,
    "hollow": _hollow,
    "plain": _plain,
    "shaded": _shaded,
    "striped": _striped,
    "wavy": _wavy,
}
