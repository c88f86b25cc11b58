"""Data that could give silently wrong results: duplicates, CSV files, few-shot draws, fingerprints, hostile files."""

import csv
import json
import logging
import os

import pytest
from datasets_helpers import build, fails, golden_folder, kind_of, own_folder, touch
from PIL import Image

import datasets


@pytest.fixture
def own(tmp_path):
    """Class folders star and moon in train/ and test/."""
    return own_folder(tmp_path)


# ------------------------------------------------------------------------------ one file twice


def _spellings(path, folder):
    return {
        "dot": f"./{path}",
        "dots": f"x/../{path}",
        "double": path.replace("/", "//"),
        "absolute": str(folder / path),
    }


@pytest.mark.parametrize("spelling", ["dot", "dots", "double", "absolute"])
def test_training_image_in_test_under_another_spelling(tmp_path, spelling):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    path = root / "oxford_pets/split_zhou_OxfordPets.json"
    split = json.loads(path.read_text())
    image = split["train"][0][0]
    (root / "oxford_pets/images/sub").mkdir()
    os.rename(root / "oxford_pets/images" / image, root / "oxford_pets/images/sub" / image)
    split["train"][0][0] = f"sub/{image}"
    split["test"][0][:] = [
        _spellings(f"sub/{image}", root / "oxford_pets/images")[spelling],
        *split["train"][0][1:],
    ]
    path.write_text(json.dumps(split))
    message = fails("OxfordPets", root)
    assert image in message and "listed more than once" in message and str(path) in message


@pytest.mark.parametrize("link", ["file", "hard link", "folder"])
def test_one_own_file_under_two_names(own, link):
    if link == "file":
        (own / "test/star/4.png").symlink_to(own / "train/star/1.png")
    elif link == "hard link":
        (own / "test/star/4.png").hardlink_to(own / "train/star/1.png")
    else:
        (own / "test/star").rename(own / "elsewhere")
        (own / "test/star").symlink_to(own / "train/star")
    message = fails("ImageFolder", own)
    assert "train/star/1.png" in message and "same file" in message


def test_one_published_file_under_two_names_is_warned_of(tmp_path):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    split = json.loads((root / "oxford_pets/split_zhou_OxfordPets.json").read_text())
    images = root / "oxford_pets/images"
    (images / split["test"][0][0]).unlink()
    (images / split["test"][0][0]).symlink_to(images / split["train"][0][0])
    assert "are the same file" in build("OxfordPets", root).remarks[0]


def test_linked_images_of_different_files_are_accepted(own, tmp_path):
    touch(tmp_path / "store", "a.png", "b.png")
    (own / "train/star/4.png").symlink_to(tmp_path / "store/a.png")
    (own / "test/star/4.png").symlink_to(tmp_path / "store/b.png")
    assert not build("ImageFolder", own).remarks


# ------------------------------------------------------------------------------ CSV


def table(root, head, rows):
    """Write images.csv with one image per row."""
    touch(root, *(f"{n}.png" for n in range(len(rows))))
    with open(root / "images.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return root


@pytest.mark.parametrize(
    "head",
    [
        ("path", "classname", "Class Name", "split"),
        ("path", "class_name", "classname", "split"),
        ("path", "Path", "classname", "split"),
        ("path", "classname", "split", "Split"),
    ],
)
def test_csv_with_ambiguous_columns_is_rejected(tmp_path, head):
    root = table(tmp_path, head, [("0.png", "star", "0", "train"), ("1.png", "star", "0", "test")])
    message = fails("ImageCSV", root)
    assert "images.csv" in message and any(f'"{name}"' in message for name in head[1:]) and "both mean" in message


def test_csv_with_other_columns_is_read(tmp_path):
    rows = [("0.png", "star", "train", "x", "y"), ("1.png", "star", "test", "x", "y")]
    root = table(tmp_path, ("path", "classname", "split", "note", "note"), rows)
    assert len(build("ImageCSV", root).test) == 1


def test_csv_with_huge_field_is_rejected(tmp_path):
    root = table(tmp_path, ("path", "classname", "split"), [("0.png", "x" * 140_000, "train"), ("1.png", "x", "test")])
    message = fails("ImageCSV", root)
    assert f"{root / 'images.csv'}, line " in message and len(message) < 500


@pytest.mark.parametrize(
    "text", ['path,classname,split\n0.png,"star,train\n1.png,star,test\n', "path,classname\n\0,x\n"]
)
def test_csv_with_damaged_fields_is_rejected(tmp_path, text):
    table(tmp_path, ("a",), [("x",), ("y",)])
    (tmp_path / "images.csv").write_text(text)
    assert "images.csv" in fails("ImageCSV", tmp_path)


def test_csv_field_may_contain_a_line_break(tmp_path):
    root = table(tmp_path, ("path", "classname", "split"), [("0.png", "a\nb", "train"), ("1.png", "a\nb", "test")])
    assert build("ImageCSV", root).classnames == ["a\nb"]


# ------------------------------------------------------------------------------ few-shot draws


@pytest.fixture
def grown(own, tmp_path):
    """A function that moves a saved draw of `shots` next to the images, from the time before images were added."""

    def keep(shots, count):
        touch(own, *(f"train/{name}/b{n}.png" for name in ("moon", "star") for n in range(count)))
        build("ImageFolder", own, shots=shots, output=tmp_path / "first")
        target = own / f"split_fewshot/shot_{shots}-seed_1.json"
        target.parent.mkdir(exist_ok=True)
        os.rename(tmp_path / f"first/split_fewshot/ImageFolder-shot_{shots}-seed_1.json", target)
        return target

    return keep


def test_draw_that_was_short_of_images_is_rejected_when_more_exist(own, grown):
    path = grown(8, 1)
    assert len(build("ImageFolder", own, shots=8).train_x) == 8  # all that exist: 4 per class
    touch(own, *(f"train/star/c{n}.png" for n in range(9)))
    message = fails("ImageFolder", own, shots=8)
    assert str(path) in message and 'class "star" has 4 train images; expected 8' in message and "Delete" in message


def test_draw_with_a_repeated_image_is_rejected(own, grown):
    path = grown(2, 4)
    content = json.loads(path.read_text())
    content["train"][1] = content["train"][0]
    path.write_text(json.dumps(content))
    assert "repeated" in fails("ImageFolder", own, shots=2)


@pytest.mark.parametrize("change", ["removed", "moved", "class"])
def test_draw_of_changed_images_is_rejected(own, grown, change):
    path = grown(2, 4)
    image = own / json.loads(path.read_text())["train"][0][0]
    if change == "removed":
        image.unlink()
    elif change == "moved":
        image.rename(own / "test/moon/moved.png")
    else:
        touch(own, *(f"{part}/comet/{n}.png" for part in ("train", "test") for n in range(3)))
    message = fails("ImageFolder", own, shots=2)
    assert str(path) in message and "Delete" in message


def test_draw_in_output_is_drawn_again(own, tmp_path, caplog):
    build("ImageFolder", own, shots=8, output=tmp_path / "out")
    touch(own, *(f"train/star/c{n}.png" for n in range(9)))
    dataset = build("ImageFolder", own, shots=8, output=tmp_path / "out")
    assert sum(item.classname == "star" for item in dataset.train_x) == 8
    assert "Drawing again" in caplog.text


# ------------------------------------------------------------------------------ identity


def test_fingerprint_identifies_data_and_ignores_location_shots_and_classes(own, tmp_path):
    first = datasets.fingerprint(build("ImageFolder", own))
    assert len(first) == 64
    assert datasets.fingerprint(build("ImageFolder", own, shots=1, subsample="new", seed=3)) == first
    moved = own.rename(tmp_path / "moved")
    assert datasets.fingerprint(build("ImageFolder", moved)) == first
    located = kind_of("ImageFolder").located(moved, tmp_path)
    located.read_all()
    assert located.data_fingerprint == first


@pytest.mark.parametrize("change", ["image", "size", "name", "class", "part"])
def test_fingerprint_changes_with_data(own, change):
    first = datasets.fingerprint(build("ImageFolder", own))
    if change == "image":
        touch(own, "test/star/4.png")
    elif change == "size":
        Image.new("RGB", (9, 9)).save(own / "test/star/1.png")
    elif change == "name":
        (own / "classnames.txt").write_text("star asterisk\nmoon moon\n")
    elif change == "class":
        touch(own, "train/comet/1.png", "test/comet/1.png")
    else:
        (own / "train/star/1.png").rename(own / "test/star/4.png")
    assert datasets.fingerprint(build("ImageFolder", own)) != first


def test_fingerprint_of_a_foreign_dataset(own):
    from dassl.data.datasets import DatasetBase, Datum

    touch(own, "a.png", "b.png")
    items = [Datum(impath=str(own / name), label=0, classname="x") for name in ("a.png", "b.png")]
    one, other = DatasetBase(train_x=items[:1], test=items[1:]), DatasetBase(train_x=items, test=items[1:])
    assert datasets.fingerprint(one) != datasets.fingerprint(other)


# ------------------------------------------------------------------------------ hostile text files


def test_json_nested_too_deeply_is_rejected(tmp_path):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    path = root / "oxford_pets/split_zhou_OxfordPets.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    assert str(path) in fails("OxfordPets", root)


@pytest.mark.parametrize("label", ["9" * 5000, 10**30, True, 1.5, None])
def test_split_with_an_impossible_label_is_rejected(tmp_path, label):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    path = root / "oxford_pets/split_zhou_OxfordPets.json"
    split = json.loads(path.read_text())
    split["train"][0][1] = label
    path.write_text(json.dumps(split))
    message = fails("OxfordPets", root)
    assert str(path) in message and len(message) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["images.csv", "classnames.txt"])
def test_named_pipe_is_rejected(own, name):
    os.mkfifo(own / name)
    assert "not a regular file" in fails("ImageCSV" if name == "images.csv" else "ImageFolder", own)


def test_log_is_quiet_for_complete_own_images(own, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = build("ImageFolder", own)
    assert not dataset.remarks and not [r for r in caplog.records if "own" in r.getMessage()]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_named_pipe_as_image_is_not_opened(own, tmp_path):
    os.mkfifo(own / "test/star/pipe.png")
    assert len(build("ImageFolder", own).test) == 6
    root = golden_folder(tmp_path / "data", "oxford_pets")
    split = json.loads((root / "oxford_pets/split_zhou_OxfordPets.json").read_text())
    image = root / "oxford_pets/images" / split["test"][0][0]
    image.unlink()
    os.mkfifo(image)
    assert "1 of 41 listed images do not exist" in fails("OxfordPets", root)


def test_broken_link_is_reported(own):
    (own / "test/star/4.png").symlink_to(own / "nowhere.png")
    assert "test/star/4.png" in fails("ImageFolder", own)


@pytest.mark.parametrize("label", ["Infinity", "NaN", "[]", '"x"', "null"])
def test_draw_with_an_impossible_label_is_rejected(own, label):
    path = own / "split_fewshot/shot_1-seed_1.json"
    path.parent.mkdir()
    path.write_text(f'{{"train": [["train/star/1.png", {label}, "star"]]}}')
    assert str(path) in fails("ImageFolder", own, shots=1)


@pytest.mark.parametrize("value", [[[1, 2]], "text", [[]], 3, [["a", "b"]]])
@pytest.mark.parametrize("name", ["StanfordCars", "OxfordFlowers"])
def test_matlab_file_with_other_content_is_rejected(tmp_path, name, value):
    savemat = pytest.importorskip("scipy.io").savemat
    root = golden_folder(tmp_path, kind_of(name).dataset_dir)
    folder = root / kind_of(name).dataset_dir
    (folder / f"split_zhou_{name}.json").unlink()
    for path in kind_of(name).annotations:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("{}")
        if path.endswith(".mat"):
            savemat(folder / path, {"labels": value, "annotations": value, "class_names": value})
    assert str(folder) in fails(name, root)


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file" + bytes(200), bytes(range(256)) * 3])
def test_damaged_matlab_file_is_rejected(tmp_path, content):
    pytest.importorskip("scipy.io")
    root = golden_folder(tmp_path, "oxford_flowers")
    (root / "oxford_flowers/split_zhou_OxfordFlowers.json").unlink()
    (root / "oxford_flowers/imagelabels.mat").write_bytes(content)
    (root / "oxford_flowers/cat_to_name.json").write_text("{}")
    assert "imagelabels.mat" in fails("OxfordFlowers", root)
