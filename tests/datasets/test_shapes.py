"""The embedded dataset `shapes` and its relatives."""

import hashlib
import json
import multiprocessing
import os
import signal
from itertools import islice

import numpy as np
import pytest
from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
from PIL import Image

from datasets import DatasetError
from datasets.readers import shapes
from datasets.readers.shapes import Shapes
from datasets.shapes import dataset as rendered
from datasets.shapes import rendering
from scripts.shapes import captions

CLASSES = tuple(Shapes.classes)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def small(monkeypatch):
    """Reduce the number of images per class."""
    sizes = {"train": 2, "val": 1, "test": 1}
    monkeypatch.setattr(Shapes, "sizes", sizes)
    return sizes


def files(folder):
    """Return {relative path: content} of all files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------- classes and images


def test_every_shape_occurs_in_base_and_new_classes():
    assert len(set(CLASSES)) == len(CLASSES) >= 24
    assert list(CLASSES) == sorted(CLASSES)
    half = len(CLASSES) // 2
    base, new = ([name.split() for name in part] for part in (CLASSES[:half], CLASSES[half:]))
    assert {shape for _, shape in base} == {shape for _, shape in new} == set(shapes.SHAPES)
    assert not {fill for fill, _ in base} & {fill for fill, _ in new}


def test_number_of_images_per_class():
    for part, least in (("train", 40), ("val", 4), ("test", 40)):
        labels = [label for _, label, _ in Shapes.members(part)]
        assert min(np.bincount(labels, minlength=len(CLASSES))) >= least


@pytest.mark.parametrize("domain", [rendering.SOURCE, rendering.TARGET])
def test_image_depends_on_seed_only(domain):
    first = rendering.render("wavy", "star", "red", domain, (1, 2, 3))
    other = rendering.render("wavy", "star", "red", domain, (1, 2, 4))
    np.random.seed(0)
    again = rendering.render("wavy", "star", "red", domain, (1, 2, 3))
    assert first.dtype == np.uint8 and first.shape == (rendering.PIXELS, rendering.PIXELS, 3)
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 2


def test_fills_and_shapes_cover_expected_area():
    """Without nuisance factors, the area of the shape's tone identifies fills and shapes."""
    calm = rendering.Domain(
        **{field: (0.8, 0.8) for field in ("radius", "ground", "second")},
        **dict.fromkeys(("offset", "rotation", "texture", "cast", "blur", "noise"), 0),
        **{field: (0, 1) for field in ("clutter", "bars")},
        period=(0.5, 0.5),
    )

    def share(fill, shape):
        green = rendering.render(fill, shape, "red", calm, (1,))[..., 1].astype(float)
        return (green < (green.min() + green.max()) / 2).mean()

    square = {fill: share(fill, "square") for fill in shapes.FILLS}
    expected = (0.8 * 0.8) ** 2
    assert square["plain"] == pytest.approx(expected, rel=0.05)
    for fill in ("checkered", "striped", "wavy"):
        assert square[fill] == pytest.approx(expected / 2, rel=0.15)
    assert 0 < square["hollow"] < 0.7 * expected
    plain = [share("plain", shape) for shape in shapes.SHAPES]
    assert len({round(value, 3) for value in plain}) == len(plain)


# ---------------------------------------- on the disk


def test_rendered_folder_has_family_layout(small, tmp_path):
    Shapes.render_folder(tmp_path / "shapes")
    split = json.loads((tmp_path / "shapes/split_zhou_Shapes.json").read_text())
    listed = [path for part in split.values() for path, _, _ in part]
    assert set(files(tmp_path / "shapes")) == {*listed, "split_zhou_Shapes.json"}
    for part, count in small.items():
        expected = [[label, name] for label, name in enumerate(CLASSES) for _ in range(count)]
        assert [entry[1:] for entry in split[part]] == expected
        assert all(path.startswith(f"{part}/{name.replace(' ', '_')}/") for path, _, name in split[part])
    with Image.open(tmp_path / "shapes" / listed[0]) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (rendering.PIXELS, rendering.PIXELS))


def test_rendering_is_reproducible_and_keeps_existing_files(small, tmp_path):
    for name in ("a", "b"):
        Shapes.render_folder(tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(set(files(tmp_path / "a").values())) == len(files(tmp_path / "a"))
    (tmp_path / "a/train/wavy_star/000.jpg").write_bytes(b"mine")
    Shapes.render_folder(tmp_path / "a")
    assert (tmp_path / "a/train/wavy_star/000.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("pictures", [0, 50, 71])
def test_killed_run_leaves_no_complete_folder(small, tmp_path, monkeypatch, pictures):
    encode, done = rendered.encode, []

    def die(picture):
        done.append(picture)
        if len(done) > pictures:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(picture)

    monkeypatch.setattr(rendered, "encode", die)
    child = FORK.Process(target=Shapes.render_folder, args=(tmp_path / "shapes",))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "shapes").exists()
    assert bool(files(tmp_path)) == (pictures > 0)
    monkeypatch.setattr(rendered, "ABANDONED", 0)
    monkeypatch.setattr(rendered, "encode", encode)
    Shapes.render_folder(tmp_path / "shapes")
    Shapes.render_folder(tmp_path / "whole")
    assert files(tmp_path / "shapes") == files(tmp_path / "whole")
    assert not list(tmp_path.glob(".*")), "the killed run's folder must be removed"


def test_interrupted_run_removes_its_folder(small, tmp_path, monkeypatch):
    def interrupt(picture):
        raise KeyboardInterrupt

    monkeypatch.setattr(rendered, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Shapes.render_folder(tmp_path / "shapes")
    assert not list(tmp_path.iterdir())


def test_concurrent_rendering(small, tmp_path):
    runs = [FORK.Process(target=Shapes.render_folder, args=(tmp_path / "shapes",)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    Shapes.render_folder(tmp_path / "alone")
    assert files(tmp_path / "shapes") == files(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shapes"]


def test_folder_with_other_files_is_rejected(small, tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes/mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="split_zhou_Shapes.json"):
        Shapes.render_folder(tmp_path / "shapes")
    assert list(files(tmp_path)) == ["shapes/mine.txt"]


@pytest.mark.parametrize("subset", ["all", "base", "new"])
def test_base_and_new_classes(small, tmp_path, subset):
    cfg = get_cfg_default()
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.OUTPUT_DIR = "Shapes", str(tmp_path), str(tmp_path / "output")
    cfg.DATASET.SUBSAMPLE_CLASSES = subset
    dataset = build_dataset(cfg)
    half = len(CLASSES) // 2
    expected = {"all": CLASSES, "base": CLASSES[:half], "new": CLASSES[half:]}[subset]
    assert tuple(dataset.classnames) == expected
    assert len(dataset.train_x) == small["train"] * len(expected)
    assert len(dataset.test) == small["test"] * len(expected)


# ---------------------------------------- its relatives

RELATIVES = {  # registry name: (number of classes, whether it has training images)
    "ShapesColours": (24, True),
    "ShapesForms": (8, True),
    "ShapesMisnamed": (36, True),
    **{f"Shapes{name}": (36, False) for name in ("V2", "Sketch", "A", "R")},
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_are_rendered_and_read(name, tmp_path, monkeypatch):
    kind, (classes, trained) = getattr(shapes, name), RELATIVES[name]
    monkeypatch.setattr(kind, "sizes", dict.fromkeys(kind.sizes, 1))
    cfg = get_cfg_default()
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.OUTPUT_DIR = name, str(tmp_path), str(tmp_path / "output")
    cfg.DATASET.SUBSAMPLE_CLASSES, cfg.DATASET.NUM_SHOTS = "all", 1
    dataset = build_dataset(cfg)
    assert [len(dataset.classnames), len(dataset.test), len(dataset.train_x)] == [classes] * 3
    assert (dataset.train_x == dataset.test) is not trained
    assert (tmp_path / kind.dataset_dir / "split_fewshot").exists() is trained
    assert (dataset.classnames == list(CLASSES)) is not trained
    words = {word for item in dataset.classnames for word in item.split()}
    assert words <= {*captions.COLOURS, *captions.FILLS, *captions.SHAPES}, "the small CLIPs must know all words"


def test_shifted_images_differ_and_sketch_is_grey():
    pictures = {
        kind: np.asarray(next(kind.images("test")))
        for kind in (Shapes, shapes.ShapesV2, shapes.ShapesSketch, shapes.ShapesA, shapes.ShapesR)
    }
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures)
    grey = {kind.__name__ for kind, picture in pictures.items() if not np.ptp(picture, axis=-1).any()}
    assert grey == {"ShapesSketch"}


def test_forms_have_every_fill_and_colour(monkeypatch):
    seen = []
    monkeypatch.setattr(rendered, "render", lambda *args: (seen.append(args[:3]), np.zeros((2, 2, 3), np.uint8))[1])
    list(shapes.ShapesForms.images("test"))
    assert {shape for _, shape, _ in seen} == set(captions.SHAPES)
    stars = {values for values in seen if values[1] == "star"}
    assert {fill for fill, _, _ in stars} == set(shapes.FILLS) and {c for _, _, c in stars} == set(captions.COLOURS)
    seen.clear()
    list(shapes.ShapesColours.images("train"))
    assert {colour for _, _, colour in seen[:60]} == {"blue"}, "the first three classes"


DIGESTS = {  # of the first nine test images
    "Shapes": "1fc76fd8712a7ee5ad17496a32fcb01ff117a304ff4347a36652eebc40089d04",
    "ShapesMisnamed": "e1d2a4170f2f473e93886bc5f5ffdf914db89a2c5dbf22cb5ec483527131d841",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_images_with_reported_figures_are_unchanged(name):
    images = islice(getattr(shapes, name).images("test"), 9)
    digest = hashlib.sha256(np.stack([np.asarray(image) for image in images]).tobytes())
    assert digest.hexdigest() == DIGESTS[name]


def test_colour_words_of_misnamed_classes_are_untrue():
    kind = shapes.ShapesMisnamed
    base, new = list(kind.classes)[:18], list(kind.classes)[18:]
    for half, misleading in ((base, 18), (new, 5)):
        pairs = [tuple(name.split()[-2:]) for name in half]
        assert [{pair[place] for pair in pairs} for place in (0, 1)] == [set(shapes.FILLS), set(shapes.SHAPES)]
        words = {name.split()[-2]: name.split()[0] for name in half if name.count(" ") == 2}
        assert sum(name.count(" ") == 2 for name in half) == misleading
        assert words.items() <= dict(zip(shapes.FILLS, shapes.UNTRUE, strict=True)).items()
    assert {" ".join(name.split()[-2:]) for name in base + new} == set(CLASSES)
    for name, (fills, forms, colours) in kind.classes.items():
        assert [*fills, *forms] == name.split()[-2:] and set(colours) == set(rendering.COLOURS)
    assert kind.sizes["test"] >= 150
