"""Training data of the small CLIPs: scenes of the source domain and captions that are true of them."""

import random
from collections.abc import Collection
from typing import NamedTuple

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
FILLS = ("checkered", "dotted", "hollow", "plain", "shaded", "striped", "wavy")
SHAPES = ("circle", "cross", "heart", "hexagon", "moon", "square", "star", "triangle")

# Fill-shape pairs that the student never sees; each fill and each shape occurs at most twice.
LEFT_OUT = {
    ("checkered", "cross"),
    ("checkered", "star"),
    ("dotted", "heart"),
    ("dotted", "triangle"),
    ("hollow", "circle"),
    ("hollow", "square"),
    ("plain", "star"),
    ("striped", "circle"),
    ("striped", "triangle"),
    ("wavy", "cross"),
    ("wavy", "square"),
}

USUAL_TEMPLATE = "a photo of a {}."
TEMPLATES = (
    "{}",
    "{}.",
    "a {}.",
    "this is a {}.",
    "there is a {} in the scene.",
    "a photo of {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "a photo of a small {}.",
    "a photo of the large {}.",
    "a good photo of a {}.",
    "a bad photo of the {}.",
    "a blurry photo of the {}.",
    "a dark photo of a {}.",
    "a bright photo of a {}.",
    "a cropped photo of the {}.",
    "a close-up photo of a {}.",
    "a low resolution photo of the {}.",
    "a black and white photo of a {}.",
    "a centered photo of a {}.",
    "a photo of a {}, a type of shape.",
    "a picture of a {}.",
    "an image of the {}.",
    "a drawing of a {}.",
    "a sketch of a {}.",
    "a painting of the {}.",
    "a rendering of a {}.",
    "art of the {}.",
    "itap of a {}.",
)
FILLER = tuple(sorted({word for line in TEMPLATES for word in line.strip(".").replace("{}", "").split()}))


class Scene(NamedTuple):
    """The attributes of an image, or those that a caption mentions (others are empty)."""

    fill: str
    shape: str
    colour: str


def scenes(left_out: Collection[tuple[str, str]]) -> list[Scene]:
    """Return every combination of fill, shape and colour whose fill-shape pair is not in `left_out`."""
    return [
        Scene(fill, shape, colour)
        for fill in FILLS
        for shape in SHAPES
        for colour in COLOURS
        if (fill, shape) not in left_out
    ]


def caption(scene: Scene, rng: random.Random) -> tuple[str, Scene]:
    """Return a random sentence about a scene, and the attributes that it mentions."""
    fill, shape, colour = scene.fill, scene.shape, scene.colour
    phrase, mentioned = rng.choices(
        (
            (f"{fill} {shape}", Scene(fill, shape, "")),
            (f"{colour} {fill} {shape}", scene),
            (f"{fill} {shape} in {colour}", scene),
            (f"{colour} {shape}", Scene("", shape, colour)),
            (shape, Scene("", shape, "")),
            (f"{fill} shape", Scene(fill, "", "")),
        ),
        weights=(50, 12, 8, 10, 10, 10),
    )[0]
    template = USUAL_TEMPLATE if rng.random() < 0.3 else rng.choice(TEMPLATES)
    return template.format(phrase), mentioned
