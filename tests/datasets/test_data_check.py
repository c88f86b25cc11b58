"""`scripts/data.py`: reports on complete and incomplete datasets, and downloads by a mocked torchvision."""

import inspect
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torchvision.datasets
from datasets_helpers import golden_folder, kind_of, published, touch
from PIL import Image
from test_datasets import FAMILY

import datasets
from datasets import MissingImagesError, fetch
from datasets.check import check
from datasets.facts import COLUMNS
from datasets.listed import SplitFileDataset
from trainers.cli import data as program

KINDS = {name: kind_of(name) for name in FAMILY}
PUBLISHED = {name: kind.facts for name, kind in KINDS.items()}  # before `mini_counts` replaces them
DIVIDED = ("Caltech101", "DescribableTextures", "EuroSAT", "Food101")  # readable without the split file


def expected(name):
    """Return the published reader's result; that of ImageNetV2 is not recorded, its mini has 5 classes of 2 images."""
    if name != "ImageNetV2":
        return published(name)
    images = [[f"imagenetv2/imagenetv2-matched-frequency-format-val/{y}/{n}.jpeg", y] for y in range(5) for n in "01"]
    return {"num_classes": 5, "train_x": images, "val": [], "test": images}


def look(name, root, **more):
    """Return the report on a dataset by its registry name."""
    return check(name, kind_of(name), root, root / "output", **more)


def run(monkeypatch, *arguments):
    """Run the program; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["data.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        sys.exit(program.main())
    return stop.value.code


def listing(folder):
    """Return all paths below a folder."""
    return sorted(folder.rglob("*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All mini datasets; do not modify."""
    return golden_folder(tmp_path_factory.mktemp("whole"))


@pytest.fixture(autouse=True)
def log_level():
    """Restore the log level that the program sets."""
    logger = logging.getLogger(datasets.__name__)
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def mini_counts(monkeypatch):
    """Replace the published counts by those of the mini datasets."""
    for name, kind in KINDS.items():
        case, facts = expected(name), kind.facts
        numbers = {part: len(case[key]) for part, key in (("train", "train_x"), ("val", "val"), ("test", "test"))}
        same = {part: n if getattr(facts, part) else None for part, n in numbers.items()}
        monkeypatch.setattr(kind, "facts", facts._replace(classes=case["num_classes"], **same))


# ---------------------------------------- check


@pytest.mark.parametrize("name", FAMILY)
def test_check_reports_complete_dataset(name, whole):
    before = listing(whole)
    report = look(name, whole)
    facts = KINDS[name].facts
    assert report.complete, report.problems
    assert report.found == {c: getattr(facts, c) for c in COLUMNS if getattr(facts, c)}
    assert report.split.startswith("class folders" if name.startswith("ImageNet") else "published")
    images = sum(facts[1:4][i] or 0 for i in range(3))
    assert f"{images} of {images} images decoded" in report.notes
    assert listing(whole) == before, "a check must write nothing"


@pytest.mark.parametrize("name", FAMILY)
def test_check_reports_missing_image(name, tmp_path):
    root = golden_folder(tmp_path, KINDS[name].dataset_dir)
    image = root / expected(name)["test"][0][0]
    image.unlink()
    report = look(name, root)
    assert not report.complete and report.found["test"] == KINDS[name].facts.test - 1
    problems = "\n".join(report.problems)
    assert f"test: {KINDS[name].facts.test - 1} found, {KINDS[name].facts.test} published" in problems
    assert name.startswith("ImageNet") or str(image) in problems
    assert KINDS[name].facts.link in report.help and KINDS[name].facts.link in "\n".join(report.lines())


@pytest.mark.parametrize("name", FAMILY)
def test_check_reports_damaged_image(name, tmp_path):
    root = golden_folder(tmp_path, KINDS[name].dataset_dir)
    image = root / expected(name)["train_x"][0][0]
    image.write_bytes(image.read_bytes()[:-20] if image.stat().st_size > 600 else b"<html>")
    (problem,) = look(name, root).problems
    assert problem.startswith("1 unreadable images") and str(image) in problem
    assert look(name, root, quick=True).complete


@pytest.mark.parametrize("name", [name for name in FAMILY if issubclass(KINDS[name], SplitFileDataset)])
def test_check_reports_missing_split_file(name, tmp_path):
    root = golden_folder(tmp_path, KINDS[name].dataset_dir)
    split = root / KINDS[name].dataset_dir / f"split_zhou_{name}.json"
    split.unlink()
    before = listing(root)
    report = look(name, root)
    assert not report.complete and split.name in "\n".join(report.problems)
    assert listing(root) == before, "no split must be saved"
    if name in DIVIDED:
        assert "not the published split" in report.split
        assert sum(report.found[part] for part in ("train", "val", "test")) > 30
    else:
        assert KINDS[name].annotations[0] in report.problems[0] and not report.found


@pytest.mark.parametrize("name", FAMILY)
def test_check_reports_missing_folder(name, tmp_path):
    report = look(name, tmp_path)
    text = "\n".join(report.lines())
    assert not report.complete and "INCOMPLETE" in text and not report.found
    assert KINDS[name].dataset_dir in text and "does not exist" in text and KINDS[name].facts.link in text


def test_published_counts_have_the_papers_sums():
    sums = {name: sum(n or 0 for n in facts[1:4]) for name, facts in PUBLISHED.items()}
    assert sums == {
        "ImageNet": 1331167, "Caltech101": 8242, "OxfordPets": 7349, "StanfordCars": 16185, "OxfordFlowers": 8189,
        "Food101": 101000, "FGVCAircraft": 10000, "SUN397": 39700, "DescribableTextures": 5640, "EuroSAT": 27000,
        "UCF101": 13320, "ImageNetV2": 10000, "ImageNetSketch": 50889, "ImageNetA": 7500, "ImageNetR": 30000,
    }  # fmt: skip
    assert set(sums) == set(FAMILY)


def test_check_of_rendered_dataset_renders_nothing(tmp_path, monkeypatch):
    kind = kind_of("ShapesForms")
    monkeypatch.setattr(kind, "sizes", {"train": 2, "val": 1, "test": 1})
    report = look("ShapesForms", tmp_path)
    assert report.complete and "rendered on first use" in report.notes[0] and not listing(tmp_path)
    kind.render_folder(tmp_path / "shapes_forms")
    report = look("ShapesForms", tmp_path)
    assert report.complete and report.found == report.published == {"classes": 8, "train": 16, "val": 8, "test": 8}
    (tmp_path / "shapes_forms/test/star/000.jpg").unlink()
    assert not look("ShapesForms", tmp_path).complete


@pytest.mark.parametrize("name", ["ImageFolder", "ImageCSV"])
def test_check_accepts_own_images(name, tmp_path):
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


def test_check_reports_missing_images_of_undivided_csv(tmp_path):
    (tmp_path / "images.csv").write_text("path,classname\na.png,a\nb.png,b\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    kind = kind_of("ImageCSV")
    with pytest.raises(MissingImagesError) as caught:
        kind.located(tmp_path, tmp_path).read(tmp_path)
    assert [item.impath for item in caught.value.parts["all"]] == [str(tmp_path / "a.png")]
    report = look("ImageCSV", tmp_path)
    assert len(report.problems) == 1 and str(tmp_path / "b.png") in report.problems[0]


def test_check_all_lists_incomplete_datasets(whole, tmp_path, monkeypatch, capsys):
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

# {path that torchvision's class creates below its root: path in the family's layout}
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


DOWNLOADS = {name: kind.facts.download for name, kind in KINDS.items() if kind.facts.download}


@pytest.fixture
def torchvision_creates(monkeypatch):
    """Return a function that mocks all downloads: they create files, or raise an error. It returns the calls."""

    def mock(files, error=None):
        calls = []

        def download(root, download):
            calls.append(root)
            touch(Path(root), *files, "archive.zip")
            if error:
                raise error

        mocked = SimpleNamespace(**{DOWNLOADS[name].torchvision: download for name in LEFT})
        monkeypatch.setattr(fetch.torchvision, "datasets", mocked)
        return calls

    return mock


@pytest.mark.parametrize("name", LEFT)
def test_fetch_moves_files_into_layout(name, tmp_path, torchvision_creates):
    torchvision_creates(LEFT[name])
    folder = tmp_path / KINDS[name].dataset_dir
    moved = fetch.fetch(DOWNLOADS[name], folder)
    files = {str(path.relative_to(tmp_path)) for path in listing(tmp_path) if path.is_file()}
    assert files == set(LEFT[name].values()) and all(path.exists() for path in moved)
    calls = torchvision_creates(LEFT[name])
    assert fetch.fetch(DOWNLOADS[name], folder) == [] and not calls, "the files exist already"


def test_fetch_keeps_existing_files(tmp_path, torchvision_creates):
    torchvision_creates(LEFT["OxfordPets"])
    touch(tmp_path / "oxford_pets/images", "mine.jpg")
    moved = fetch.fetch(DOWNLOADS["OxfordPets"], tmp_path / "oxford_pets")
    assert moved == [tmp_path / "oxford_pets/annotations"]
    assert [path.name for path in (tmp_path / "oxford_pets/images").iterdir()] == ["mine.jpg"]


@pytest.mark.parametrize(
    "error", [RuntimeError("File not found or corrupted"), OSError("no route"), ValueError("dead")]
)
def test_failed_download_prints_links_and_resumes(error, tmp_path, torchvision_creates, monkeypatch, capsys):
    torchvision_creates([], error)
    assert run(monkeypatch, "fetch", "dtd", "--data", tmp_path) == 2
    message = capsys.readouterr().err
    assert str(error) in message and PUBLISHED["DescribableTextures"].link in message and "images/" in message
    assert (tmp_path / ".dtd-download/archive.zip").exists() and not (tmp_path / "dtd").exists()
    torchvision_creates([f"dtd/dtd/images/banded/{number}.jpg" for number in range(5)])
    assert run(monkeypatch, "fetch", "dtd", "--data", tmp_path) == 1, "the split file is not in the archive"
    out = capsys.readouterr().out
    assert f"{tmp_path / 'dtd/images'}: fetched" in out and "split_zhou_DescribableTextures.json is missing" in out
    assert [path.name for path in tmp_path.iterdir()] == ["dtd"]


def test_fetch_rejects_download_with_another_layout(tmp_path, torchvision_creates):
    torchvision_creates(["somewhere/else.jpg"])
    with pytest.raises(OSError, match="no dtd/dtd/images in"):
        fetch.fetch(DOWNLOADS["DescribableTextures"], tmp_path / "dtd")
    assert (tmp_path / ".dtd-download/somewhere/else.jpg").exists()


@pytest.mark.parametrize("name", ["imagenet", "ucf101", "imagenetv2", "imagenet_a"])
def test_fetch_prints_links_without_download(name, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "fetch", name, "--data", tmp_path) == 1
    kind = program.registered(name)
    out = capsys.readouterr().out
    assert "no automatic download" in out and PUBLISHED[kind.__name__].link in out and kind.dataset_dir in out


@pytest.mark.parametrize("name", LEFT)
def test_torchvision_has_the_classes(name):
    parameters = inspect.signature(getattr(torchvision.datasets, DOWNLOADS[name].torchvision)).parameters
    assert {"root", "download"} <= set(parameters)
    assert set(LEFT) == set(DOWNLOADS)
