"""Error messages for invalid data, splits and configurations."""

import json
import os
import re

import pytest
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from datasets_helpers import build, golden_folder, touch

from datasets import DatasetError, DatasetNotFoundError

LAYOUT = {  # name: folder, then files and folders in it
    "ImageNet": ("imagenet", "images/train", "images/val", "classnames.txt"),
    "Caltech101": ("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "OxfordPets": ("oxford_pets", "images", "split_zhou_OxfordPets.json", "annotations/trainval.txt"),
    "StanfordCars": (
        "stanford_cars",
        "cars_train",
        "cars_test",
        "split_zhou_StanfordCars.json",
        "devkit/cars_meta.mat",
    ),
    "OxfordFlowers": ("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "imagelabels.mat"),
    "Food101": ("food-101", "images", "split_zhou_Food101.json"),
    "FGVCAircraft": ("fgvc_aircraft", "images", "variants.txt", "images_variant_train.txt"),
    "SUN397": ("sun397", "SUN397", "split_zhou_SUN397.json", "ClassName.txt"),
    "DescribableTextures": ("dtd", "images", "split_zhou_DescribableTextures.json"),
    "EuroSAT": ("eurosat", "2750", "split_zhou_EuroSAT.json"),
    "UCF101": ("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", "ucfTrainTestlist/classInd.txt"),
    "ImageNetV2": ("imagenetv2", "imagenetv2-matched-frequency-format-val", "classnames.txt"),
    "ImageNetSketch": ("imagenet-sketch", "images", "classnames.txt"),
    "ImageNetA": ("imagenet-adversarial", "imagenet-a", "classnames.txt"),
    "ImageNetR": ("imagenet-rendition", "imagenet-r", "classnames.txt"),
}


@pytest.fixture
def pets(tmp_path):
    """DATASET.ROOT with OxfordPets in it, as unpacked."""
    return golden_folder(tmp_path / "data", "oxford_pets")


@pytest.mark.parametrize("name", sorted(LAYOUT))
def test_missing_folder(name, tmp_path):
    touch(tmp_path, "somewhere_else/x.jpg")
    with pytest.raises(DatasetNotFoundError) as error:
        build(name, tmp_path)
    message = str(error.value)
    folder, *paths = LAYOUT[name]
    assert message.startswith(f"{name}: {tmp_path / folder}") and f"expected in {tmp_path / folder} " in message
    assert all(path in message for path in paths), message
    assert DATASET_REGISTRY.get(name).source in message
    assert "DATASETS.md" in message or name == "FGVCAircraft"
    assert f"Content of {tmp_path}: somewhere_else" in message


def test_missing_root(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=rf"DATASET.ROOT is {tmp_path}/a/b\)"):
        build("Food101", tmp_path / "a" / "b")


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("OxfordPets", "annotations/trainval.txt"),
        ("StanfordCars", "devkit/cars_train_annos.mat"),
        ("OxfordFlowers", "imagelabels.mat"),
        ("SUN397", "ClassName.txt"),
        ("UCF101", "ucfTrainTestlist/classInd.txt"),
    ],
)
def test_missing_split_file_and_annotations(name, missing, tmp_path):
    folder = LAYOUT[name][0]
    root = golden_folder(tmp_path, folder)
    (root / folder / f"split_zhou_{name}.json").unlink()
    with pytest.raises(DatasetNotFoundError, match=re.escape(f"{root / folder / missing} does not exist")) as error:
        build(name, root)
    assert f"split_zhou_{name}.json" in str(error.value)


@pytest.mark.parametrize("name", ["ImageNet", "ImageNetV2", "ImageNetA"])
def test_imagenet_without_class_names(name, tmp_path):
    folder = LAYOUT[name][0]
    root = golden_folder(tmp_path, folder)
    names = root / folder / "classnames.txt"
    text = names.read_text()
    names.write_text(text[: text.rindex("n0")])  # without the last line: 5 classes, 4 names
    if name == "ImageNetA":  # which has no folder of the fifth class
        names.write_text("n01443537 goldfish\n")
    with pytest.raises(
        DatasetError, match="no name for the folder" if name != "ImageNetV2" else "missing or unexpected"
    ):
        build(name, root)
    names.unlink()
    with pytest.raises(DatasetNotFoundError, match="classnames.txt does not exist"):
        build(name, root)


def test_imagenet_val_without_class_folders(tmp_path):
    root = golden_folder(tmp_path, "imagenet")
    val = root / "imagenet/images/val"
    (val / "n01440764").rename(tmp_path / "aside")
    with pytest.raises(DatasetError, match='the class folder "n01440764" exists in only one of'):
        build("ImageNet", root)
    for folder in list(val.iterdir()):
        folder.rename(tmp_path / folder.name)
    touch(val, "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DatasetError, match=f"{val}: no class folders; expected .*<class>/<image>"):
        build("ImageNet", root)


# ------------------------------------------------------------------------------ invalid split files


def _label_gap(split):
    for part in split.values():
        for entry in part:
            entry[1] += entry[1] == 2


def _no_training_images(split):
    split["test"] += [e for e in split["train"] if e[1] == 1]
    split["train"] = [e for e in split["train"] if e[1] != 1]


def _two_names(split):
    split["test"][0][2] = "another name"


def _one_name_for_two(split):
    for part in split.values():
        for entry in part:
            entry[2] = "bombay" if entry[2] == "abyssinian" else entry[2]


def _image_twice(split):
    split["test"].append(split["train"][0])


def _image_missing(split):
    split["val"][0][0] = "not_there.jpg"


def _part_missing(split):
    del split["val"]


def _part_empty(split):
    split["test"] = []


def _short_entry(split):
    split["train"][0] = split["train"][0][:2]


def _odd_label(split):
    split["train"][0][1] = -1


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_label_gap, 'label 2 is missing, "bombay" has 3'),
        (_no_training_images, r'class "american_bulldog" \(label 1\) has no training images'),
        (_two_names, 'label . has the names ".*another name'),
        (_one_name_for_two, 'labels (0 and 2|2 and 0) have the same class name "bombay"'),
        (_image_twice, "is listed more than once"),
        (_image_missing, "1 of 41 listed images do not exist: .*oxford_pets/images/not_there.jpg"),
        (_part_missing, 'no list "val"; expected a split file'),
        (_part_empty, "no test images"),
        (_short_entry, r"in train; expected \[path, label, class name\]"),
        (_odd_label, r"in train; expected \[path, label, class name\]"),
    ],
)
def test_invalid_split_file(pets, spoil, fault):
    path = pets / "oxford_pets/split_zhou_OxfordPets.json"
    split = json.loads(path.read_text())
    spoil(split)
    path.write_text(json.dumps(split))
    with pytest.raises(DatasetError, match=fault) as error:
        build("OxfordPets", pets)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", '{"train": [[', "<html>Quota exceeded</html>", "[]"])
def test_file_that_is_not_a_split(pets, text):
    path = pets / "oxford_pets/split_zhou_OxfordPets.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=rf"{path}: (not JSON|no list)"):
        build("OxfordPets", pets)


def test_images_one_folder_too_deep(pets):
    images = pets / "oxford_pets/images"
    images.rename(pets / "oxford_pets/inner")
    images.mkdir()
    (pets / "oxford_pets/inner").rename(images / "images")
    with pytest.raises(DatasetError, match="41 of 41 listed images do not exist") as error:
        build("OxfordPets", pets)
    assert f"run mv {images}/images/* {images}/" in str(error.value)


def test_case_insensitive_file_system(pets, monkeypatch):
    really_list = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [name.upper() for name in really_list(folder)])
    assert len(build("OxfordPets", pets).test) == 15


# ------------------------------------------------------------------------------ invalid annotations


def test_invalid_annotations(tmp_path):
    root = golden_folder(tmp_path, "fgvc_aircraft", "oxford_pets", "ucf101", "sun397")
    train = root / "fgvc_aircraft/images_variant_train.txt"
    text = train.read_text()
    train.write_text(text + "0099999 Concorde\n")
    with pytest.raises(DatasetError, match=f'{train}: class "Concorde"; expected a class of variants.txt'):
        build("FGVCAircraft", root)
    train.write_text(text + "0099999 707-320\n")
    with pytest.raises(DatasetError, match="1 of 60 listed images do not exist: .*images/0099999.jpg"):
        build("FGVCAircraft", root)

    (root / "oxford_pets/split_zhou_OxfordPets.json").unlink()
    (root / "oxford_pets/annotations").mkdir()
    (root / "oxford_pets/annotations/test.txt").touch()
    (root / "oxford_pets/annotations/trainval.txt").write_text("Abyssinian_100 1 1\n")
    with pytest.raises(DatasetError, match="trainval.txt: .* has 3 fields; expected 4"):
        build("OxfordPets", root)

    (root / "sun397/split_zhou_SUN397.json").unlink()
    (root / "sun397/ClassName.txt").write_text("/a/abbey\n")
    (root / "sun397/Training_01.txt").write_text("/z/zoo" + "/sun_1.jpg\n")
    (root / "sun397/Testing_01.txt").touch()
    with pytest.raises(DatasetError, match='Training_01.txt: class "/z/zoo"'):
        build("SUN397", root)


def test_invalid_matlab_files(tmp_path):
    io = pytest.importorskip("scipy.io")
    root = golden_folder(tmp_path, "oxford_flowers", "stanford_cars")
    for folder, name in (("oxford_flowers", "OxfordFlowers"), ("stanford_cars", "StanfordCars")):
        (root / folder / f"split_zhou_{name}.json").unlink()
    labels = root / "oxford_flowers/imagelabels.mat"
    (labels.parent / "cat_to_name.json").write_text('{"1": "rose"}')
    labels.write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(DatasetError, match='imagelabels.mat: not a Matlab file with "labels"'):
        build("OxfordFlowers", root)
    io.savemat(labels, {"labels": [[1, 2]]})
    with pytest.raises(DatasetError, match="cat_to_name.json: no name for label 2"):
        build("OxfordFlowers", root)


# ------------------------------------------------------------------------------ configuration


def test_configuration_without_subsample_classes(tmp_path):
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = str(tmp_path)
    with pytest.raises(DatasetError, match="DATASET.SUBSAMPLE_CLASSES: not defined.*cfg.DATASET.SUBSAMPLE_CLASSES = "):
        DATASET_REGISTRY.get("OxfordPets")(cfg)


def test_invalid_subsample_classes(pets):
    with pytest.raises(DatasetError, match='DATASET.SUBSAMPLE_CLASSES: "novel"; .* all, base, new'):
        build("OxfordPets", pets, subsample="novel")


def test_single_class_has_no_new_half(tmp_path):
    touch(tmp_path, *(f"train/cat/{i}.jpg" for i in range(3)), "test/cat/1.jpg")
    assert build("ImageFolder", tmp_path, subsample="base").classnames == ["cat"]
    with pytest.raises(DatasetError, match="new selects no class; the dataset has 1"):
        build("ImageFolder", tmp_path, subsample="new")
