"""`scripts/data.py`: what is there of a dataset and what is missing, and downloads (of a torchvision that is mocked)."""

import inspect
import sys
from types import SimpleNamespace

import pytest
import torchvision.datasets
from conftest import ROOT
from dassl.data.datasets import DATASET_REGISTRY
from datasets_helpers import golden_folder, published, touch
from PIL import Image
from test_datasets import FAMILY

from datasets import MissingImagesError
from datasets.listed import SplitFileDataset
from datasets.published import PUBLISHED, Published

sys.path.append(str(ROOT / "scripts"))
import data as program  # noqa: E402
import data_check  # noqa: E402
import data_fetch  # noqa: E402

KINDS = {name: DATASET_REGISTRY.get(name) for name in FAMILY}
DIVIDED = ("Caltech101", "DescribableTextures", "EuroSAT", "Food101")  # readable without the split file


def expected(name):
    """What the published reader returns; ImageNetV2's is not recorded, but its mini has 5 classes of 2 images."""
    if name != "ImageNetV2":
        return published(name)
    images = [[f"imagenetv2/imagenetv2-matched-frequency-format-val/{y}/{n}.jpeg", y] for y in range(5) for n in "01"]
    return {"num_classes": 5, "train_x": images, "val": [], "test": images}


def look(name, root, **more):
    """The report on a dataset by its registry name."""
    return data_check.check(name, DATASET_REGISTRY.get(name), root, root / "output", **more)


def run(monkeypatch, *arguments):
    """The exit code of the program."""
    monkeypatch.setattr(sys, "argv", ["data.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        program.as_program(program.main)
    return stop.value.code


def listing(folder):
    """Everything below a folder."""
    return sorted(folder.rglob("*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All mini datasets, to be read only."""
    return golden_folder(tmp_path_factory.mktemp("whole"))


@pytest.fixture(autouse=True)
def mini_counts(monkeypatch):
    """The mini datasets' numbers in place of the published ones."""
    for name, facts in PUBLISHED.items():
        case = expected(name)
        numbers = {part: len(case[key]) for part, key in (("train", "train_x"), ("val", "val"), ("test", "test"))}
        same = {part: n if getattr(facts, part) else None for part, n in numbers.items()}
        monkeypatch.setitem(PUBLISHED, name, Published(case["num_classes"], **same, link=facts.link))


# ---------------------------------------- check


@pytest.mark.parametrize("name", FAMILY)
def test_a_complete_dataset(name, whole):
    before = listing(whole)
    report = look(name, whole)
    facts = PUBLISHED[name]
    assert report.complete, report.problems
    assert report.found == {c: getattr(facts, c) for c in data_check.COLUMNS if getattr(facts, c)}
    assert report.split.startswith("class folders" if name.startswith("ImageNet") else "published")
    images = sum(facts[1:4][i] or 0 for i in range(3))
    assert f"{images} of {images} images decoded" in report.notes
    assert listing(whole) == before, "a check writes nothing"


@pytest.mark.parametrize("name", FAMILY)
def test_a_missing_image(name, tmp_path):
    root = golden_folder(tmp_path, KINDS[name].dataset_dir)
    image = root / expected(name)["test"][0][0]
    image.unlink()
    report = look(name, root)
    assert not report.complete and report.found["test"] == PUBLISHED[name].test - 1
    told = "\n".join(report.problems)
    assert f"test: {PUBLISHED[name].test - 1} found, {PUBLISHED[name].test} published" in told
    assert name.startswith("ImageNet") or str(image) in told
    assert PUBLISHED[name].link in report.help and PUBLISHED[name].link in "\n".join(report.lines())


@pytest.mark.parametrize("name", FAMILY)
def test_a_broken_image(name, tmp_path):
    root = golden_folder(tmp_path, KINDS[name].dataset_dir)
    image = root / expected(name)["train_x"][0][0]
    image.write_bytes(image.read_bytes()[:-20] if image.stat().st_size > 600 else b"<html>")
    (problem,) = look(name, root).problems
    assert problem.startswith("1 unreadable images") and str(image) in problem
    assert look(name, root, quick=True).complete


@pytest.mark.parametrize("name", [name for name in FAMILY if issubclass(KINDS[name], SplitFileDataset)])
def test_no_split_file(name, tmp_path):
    root = golden_folder(tmp_path, KINDS[name].dataset_dir)
    split = root / KINDS[name].dataset_dir / f"split_zhou_{name}.json"
    split.unlink()
    before = listing(root)
    report = look(name, root)
    assert not report.complete and split.name in "\n".join(report.problems)
    assert listing(root) == before, "no division is kept"
    if name in DIVIDED:
        assert "not the published split" in report.split
        assert sum(report.found[part] for part in ("train", "val", "test")) > 30
    else:
        assert KINDS[name].annotations[0] in report.problems[0] and not report.found


@pytest.mark.parametrize("name", FAMILY)
def test_nothing_there(name, tmp_path):
    report = look(name, tmp_path)
    text = "\n".join(report.lines())
    assert not report.complete and "INCOMPLETE" in text and not report.found
    assert KINDS[name].dataset_dir in text and "does not exist" in text and PUBLISHED[name].link in text


def test_the_published_numbers_add_up():
    """Sums that the datasets' own papers give, of the table as it stands in the file."""
    table = {}
    exec((ROOT / "datasets/published.py").read_text(), table)
    sums = {name: sum(n or 0 for n in facts[1:4]) for name, facts in table["PUBLISHED"].items()}
    assert sums == {
        "ImageNet": 1331167, "Caltech101": 8242, "OxfordPets": 7349, "StanfordCars": 16185, "OxfordFlowers": 8189,
        "Food101": 101000, "FGVCAircraft": 10000, "SUN397": 39700, "DescribableTextures": 5640, "EuroSAT": 27000,
        "UCF101": 13320, "ImageNetV2": 10000, "ImageNetSketch": 50889, "ImageNetA": 7500, "ImageNetR": 30000,
    }  # fmt: skip
    assert set(sums) == set(FAMILY)


def test_rendered_datasets_are_complete_and_a_check_renders_nothing(tmp_path, monkeypatch):
    kind = DATASET_REGISTRY.get("ShapesForms")
    monkeypatch.setattr(kind, "sizes", {"train": 2, "val": 1, "test": 1})
    report = look("ShapesForms", tmp_path)
    assert report.complete and "rendered on first use" in report.notes[0] and not listing(tmp_path)
    kind.render_folder(tmp_path / "shapes_forms")
    report = look("ShapesForms", tmp_path)
    assert report.complete and report.found == report.published == {"classes": 8, "train": 16, "val": 8, "test": 8}
    (tmp_path / "shapes_forms/test/star/000.jpg").unlink()
    assert not look("ShapesForms", tmp_path).complete


@pytest.mark.parametrize("name", ["ImageFolder", "ImageCSV"])
def test_your_own_images(name, tmp_path):
    rows = [f"{label}/{n}.png" for label in "ab" for n in range(5)]
    touch(tmp_path, *rows)
    for n, row in enumerate(rows):
        Image.new("RGB", (4, 4), (n, 0, 0)).save(tmp_path / row)
    (tmp_path / "images.csv").write_text("path,classname\n" + "".join(f"{row},{row[0]}\n" for row in rows))
    report = look(name, tmp_path)
    assert (
        report.complete and report.published == {} and report.found == {"classes": 2, "train": 4, "val": 2, "test": 4}
    )
    (tmp_path / rows[3]).write_bytes(b"")
    assert rows[3] in "\n".join(look(name, tmp_path).problems)


def test_missing_images_of_what_is_still_to_be_divided(tmp_path):
    (tmp_path / "images.csv").write_text("path,classname\na.png,a\nb.png,b\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    kind = DATASET_REGISTRY.get("ImageCSV")
    with pytest.raises(MissingImagesError) as caught:
        kind.unread(tmp_path, tmp_path).read(tmp_path)
    assert [item.impath for item in caught.value.parts["all"]] == [str(tmp_path / "a.png")]
    report = look("ImageCSV", tmp_path)
    assert len(report.problems) == 1 and str(tmp_path / "b.png") in report.problems[0]


def test_the_program_says_what_is_incomplete(whole, tmp_path, monkeypatch, capsys):
    root = golden_folder(tmp_path, "dtd", "eurosat")
    assert run(monkeypatch, "check", "dtd", "--data", root) == 0
    assert "dtd: complete" in capsys.readouterr().out
    assert run(monkeypatch, "check", "all", "--data", root, "--quick") == 1
    out = capsys.readouterr().out
    assert "dtd: complete" in out and "food101: INCOMPLETE" in out and "csv" not in out
    assert "incomplete: caltech101, fgvc_aircraft, food101, imagenet" in out.splitlines()[-1]
    assert run(monkeypatch, "check", "all", "--data", whole, "--quick") == 0
    assert run(monkeypatch, "check", "dtt", "--data", root) == 2
    assert "dtd" in capsys.readouterr().err


# ---------------------------------------- fetch

# What torchvision's classes leave below their root, and what the family's layout makes of it.
LEFT = {
    "Caltech101": {"caltech101/101_ObjectCategories/face/1.jpg": "caltech-101/101_ObjectCategories/face/1.jpg"},
    "OxfordPets": {
        "oxford-iiit-pet/images/a_1.jpg": "oxford_pets/images/a_1.jpg",
        "oxford-iiit-pet/annotations/trainval.txt": "oxford_pets/annotations/trainval.txt",
    },
    "StanfordCars": {
        f"stanford_cars/{name}": f"stanford_cars/{name}"
        for name in ("cars_train/1.jpg", "cars_test/1.jpg", "devkit/cars_meta.mat", "cars_test_annos_withlabels.mat")
    },
    "OxfordFlowers": {
        f"flowers-102/{name}": f"oxford_flowers/{name}" for name in ("jpg/image_00001.jpg", "imagelabels.mat")
    },
    "Food101": {"food-101/images/pie/1.jpg": "food-101/images/pie/1.jpg"},
    "FGVCAircraft": {
        f"fgvc-aircraft-2013b/data/{name}": f"fgvc_aircraft/{name}"
        for name in ("images/1.jpg", "variants.txt", *(f"images_variant_{p}.txt" for p in ("train", "val", "test")))
    },
    "SUN397": {"SUN397/a/abbey/1.jpg": "sun397/SUN397/a/abbey/1.jpg"},
    "DescribableTextures": {"dtd/dtd/images/banded/1.jpg": "dtd/images/banded/1.jpg"},
    "EuroSAT": {"eurosat/2750/Forest/1.jpg": "eurosat/2750/Forest/1.jpg"},
}


@pytest.fixture
def torchvision_leaves(monkeypatch):
    """A function that mocks all downloads: they leave these files, or raise this error. It returns the calls."""

    def mock(files, error=None):
        calls = []

        def download(root, download):
            calls.append(root)
            touch(data_check.Path(root), *files, "archive.zip")
            if error:
                raise error

        mocked = SimpleNamespace(**{entry.kind: download for entry in data_fetch.DOWNLOADS.values()})
        monkeypatch.setattr(data_fetch.torchvision, "datasets", mocked)
        return calls

    return mock


@pytest.mark.parametrize("name", LEFT)
def test_a_download_is_moved_into_the_layout(name, tmp_path, torchvision_leaves):
    torchvision_leaves(LEFT[name])
    folder = tmp_path / KINDS[name].dataset_dir
    moved = data_fetch.fetch(data_fetch.DOWNLOADS[name], folder)
    files = {str(path.relative_to(tmp_path)) for path in listing(tmp_path) if path.is_file()}
    assert files == set(LEFT[name].values()) and all(path.exists() for path in moved)
    calls = torchvision_leaves(LEFT[name])
    assert data_fetch.fetch(data_fetch.DOWNLOADS[name], folder) == [] and not calls, "it is there already"


def test_what_is_there_is_not_overwritten(tmp_path, torchvision_leaves):
    torchvision_leaves(LEFT["OxfordPets"])
    touch(tmp_path / "oxford_pets/images", "mine.jpg")
    moved = data_fetch.fetch(data_fetch.DOWNLOADS["OxfordPets"], tmp_path / "oxford_pets")
    assert moved == [tmp_path / "oxford_pets/annotations"]
    assert [path.name for path in (tmp_path / "oxford_pets/images").iterdir()] == ["mine.jpg"]


@pytest.mark.parametrize(
    "error", [RuntimeError("File not found or corrupted"), OSError("no route"), ValueError("dead")]
)
def test_a_download_that_failed_says_where_to_look_and_is_gone_on_with(
    error, tmp_path, torchvision_leaves, monkeypatch, capsys
):
    torchvision_leaves([], error)
    assert run(monkeypatch, "fetch", "dtd", "--data", tmp_path) == 2
    told = capsys.readouterr().err
    assert str(error) in told and PUBLISHED["DescribableTextures"].link in told and "images/" in told
    assert (tmp_path / ".dtd-download/archive.zip").exists() and not (tmp_path / "dtd").exists()
    torchvision_leaves([f"dtd/dtd/images/banded/{number}.jpg" for number in range(5)])
    assert run(monkeypatch, "fetch", "dtd", "--data", tmp_path) == 1, "the split file is not in the archive"
    out = capsys.readouterr().out
    assert f"{tmp_path / 'dtd/images'}: fetched" in out and "split_zhou_DescribableTextures.json is missing" in out
    assert [path.name for path in tmp_path.iterdir()] == ["dtd"]


def test_a_download_with_another_layout_is_said(tmp_path, torchvision_leaves):
    torchvision_leaves(["somewhere/else.jpg"])
    with pytest.raises(OSError, match="left no dtd/dtd/images"):
        data_fetch.fetch(data_fetch.DOWNLOADS["DescribableTextures"], tmp_path / "dtd")
    assert (tmp_path / ".dtd-download/somewhere/else.jpg").exists()


@pytest.mark.parametrize("name", ["imagenet", "ucf101", "imagenetv2", "imagenet_a"])
def test_what_cannot_be_downloaded_is_linked(name, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "fetch", name, "--data", tmp_path) == 1
    kind = program.registered(name)
    out = capsys.readouterr().out
    assert "cannot be downloaded" in out and PUBLISHED[kind.__name__].link in out and kind.dataset_dir in out


@pytest.mark.parametrize("name", LEFT)
def test_torchvision_has_these_classes(name):
    parameters = inspect.signature(getattr(torchvision.datasets, data_fetch.DOWNLOADS[name].kind)).parameters
    assert {"root", "download"} <= set(parameters)
    assert set(LEFT) == set(data_fetch.DOWNLOADS)
