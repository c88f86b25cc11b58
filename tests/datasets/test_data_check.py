"""`scripts/data.py`: reports on complete and incomplete datasets, and downloads by a mocked torchvision."""

import hashlib
import sys

import pytest
from datasets_helpers import golden_folder, kind_of, published, touch
from PIL import Image
from test_datasets import FAMILY

from datasets import MissingImagesError
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
    link = KINDS[name].facts.links[0]
    assert link in report.help and link in "\n".join(report.lines())


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


def test_split_files_are_compared_with_known_hashes(tmp_path, monkeypatch):
    root = golden_folder(tmp_path, "oxford_pets")
    split = root / "oxford_pets/split_zhou_OxfordPets.json"
    kind, digest = KINDS["OxfordPets"], hashlib.sha256(split.read_bytes()).hexdigest()
    assert set(kind.facts.files) == {split.name}
    assert any(f"{split.name}: differs from the known file" in note for note in look("OxfordPets", root).notes)
    monkeypatch.setattr(kind, "facts", kind.facts._replace(files={split.name: digest}))
    assert f"known split: {split.name}" in look("OxfordPets", root).notes


def test_known_hashes_are_complete():
    for name, facts in PUBLISHED.items():
        assert all(len(digest) == 64 for digest in facts.files.values())
        assert bool(facts.files) is not name.startswith("ImageNet"), name
