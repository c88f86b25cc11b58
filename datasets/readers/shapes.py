"""`Shapes`, the embedded default dataset, and its relatives; their images are rendered on first use.

`Shapes` has 36 classes, each a fill and a shape ("wavy star"). In alphabetical order, the base half has the fills
checkered, dotted and hollow, the new half plain, striped and wavy; every shape occurs in both.

`ShapesColours` ("red star") and `ShapesForms` ("star") have other classes in the same domain; `ShapesV2`,
`ShapesSketch`, `ShapesA` and `ShapesR` are shifted test sets of `Shapes`, like ImageNetV2, -Sketch, -A and -R of ImageNet.

`ShapesMisnamed` has the fill-shape pairs of `Shapes` in other halves, and names that mislead on purpose: all base names and
five new ones begin with a colour word ("red checkered circle"), but the images of every class have all eight colours. Only
labels show that the word means nothing. `docs/demonstration.md` reports how it was chosen.
"""

from dataclasses import replace

from dassl.data.datasets import DATASET_REGISTRY

from ..shapes.dataset import Choices, RenderedDataset
from ..shapes.rendering import COLOURS, TARGET
from ..shapes.rendering import SHAPES as FORMS

FILLS = ("checkered", "dotted", "hollow", "plain", "striped", "wavy")
SHAPES = ("circle", "cross", "heart", "square", "star", "triangle")
ANY_FILL, ANY_COLOUR = FILLS, tuple(COLOURS)
UNTRUE = ("red", "blue", "yellow", "purple", "green", "pink")  # the colour word of each fill in `ShapesMisnamed`


@DATASET_REGISTRY.register()
class Shapes(RenderedDataset):
    """Filled shapes with clutter, noise and colour casts: "wavy star", 36 classes."""

    dataset_dir = "shapes"
    classes = {f"{fill} {shape}": ((fill,), (shape,), ANY_COLOUR) for fill in FILLS for shape in SHAPES}
    sizes = {"train": 60, "val": 8, "test": 60}
    seed = 2024


@DATASET_REGISTRY.register()
class ShapesColours(RenderedDataset):
    """Coloured shapes in any fill: "red star", 24 classes."""

    dataset_dir = "shapes_colours"
    classes = {
        f"{colour} {shape}": (ANY_FILL, (shape,), (colour,))
        for colour in sorted(COLOURS)
        for shape in ("hexagon", "moon", "star")
    }
    sizes = {"train": 20, "val": 4, "test": 20}
    seed = 2025


@DATASET_REGISTRY.register()
class ShapesForms(RenderedDataset):
    """Shapes in any fill and colour: "star", 8 classes."""

    dataset_dir = "shapes_forms"
    classes = {shape: (ANY_FILL, (shape,), ANY_COLOUR) for shape in sorted(FORMS)}
    sizes = {"train": 20, "val": 4, "test": 40}
    seed = 2026


def misnamed() -> dict[str, Choices]:
    """Return the classes of `ShapesMisnamed`, in which fill-shape pairs alternate between the base and the new half.

    Each fill's colour word begins its base names, and for the first five fills one new name: that of the next shape.
    """
    base: dict[str, Choices] = {}
    new: dict[str, Choices] = {}
    for row, fill in enumerate(FILLS):
        for column, shape in enumerate(SHAPES):
            in_base = (row + column) % 2 == 0
            word = f"{UNTRUE[row]} " if in_base or column == row + 1 else ""
            (base if in_base else new)[f"{word}{fill} {shape}"] = (fill,), (shape,), ANY_COLOUR
    return base | new


@DATASET_REGISTRY.register()
class ShapesMisnamed(RenderedDataset):
    """Filled shapes of any colour, whose names mislead: "red checkered circle", 36 classes."""

    dataset_dir = "shapes_misnamed"
    classes = misnamed()
    sizes = {"train": 60, "val": 4, "test": 150}
    seed = 4010


class _ShiftedShapes(Shapes):
    """A test set with the classes of `Shapes`."""

    sizes = {"test": 15}


@DATASET_REGISTRY.register()
class ShapesV2(_ShiftedShapes):
    """New images of the same domain, as in ImageNetV2."""

    dataset_dir = "shapes_v2"
    seed = 2027


@DATASET_REGISTRY.register()
class ShapesSketch(_ShiftedShapes):
    """Grey lines instead of colour, as in ImageNet-Sketch."""

    dataset_dir = "shapes_sketch"
    domain = replace(TARGET, grey=1.0, lines=0.5)
    seed = 2028


@DATASET_REGISTRY.register()
class ShapesA(_ShiftedShapes):
    """More clutter, bars and noise: hard images, as in ImageNet-A."""

    dataset_dir = "shapes_a"
    domain = replace(TARGET, clutter=(8, 15), bars=(1, 3), texture=0.26, noise=0.11)
    seed = 2029


@DATASET_REGISTRY.register()
class ShapesR(_ShiftedShapes):
    """Unusual colours, sizes and angles, like the renditions of ImageNet-R."""

    dataset_dir = "shapes_r"
    domain = replace(TARGET, radius=(0.34, 0.95), rotation=30, ground=(0.02, 0.36), cast=0.55)
    seed = 2030
