"""Folders that are too high, too low or have other names: the message contains the fix."""

import os

import pytest
from datasets_helpers import build, fails, golden_folder, kind_of, own_folder, touch

from datasets.check import check


@pytest.fixture
def own(tmp_path):
    """Class folders star and moon in train/ and test/."""
    return own_folder(tmp_path)


# ------------------------------------------------------------------------------ a folder too high or too low


def test_own_folder_one_level_too_high(own):
    folder = own.parent / "images"
    folder.mkdir()
    own.rename(folder / "own")
    message = fails("ImageFolder", folder)
    assert f"pass --data {folder / 'own'}" in message and "train/<class>/<image>" in message
    report = check("image_folder", kind_of("ImageFolder"), folder, folder / "output")
    assert f"pass --data {folder / 'own'}" in report.problems[0]


def test_own_undivided_folder_one_level_too_high(tmp_path):
    touch(tmp_path, *(f"data/photos/{name}/{n}.png" for name in "ab" for n in range(4)))
    assert f"pass --data {tmp_path / 'data/photos'}" in fails("ImageFolder", tmp_path / "data")


def test_own_folder_one_level_too_low(own):
    message = fails("ImageFolder", own / "train/star")
    assert "no class folders but 3 images" in message and f"pass --data {own / 'train'}" in message


def test_train_folder_as_root_is_warned_of(own):
    touch(own, *(f"train/{name}/4.png" for name in ("moon", "star")))
    assert f"--data may be {own}" in build("ImageFolder", own / "train").remarks[0]


@pytest.mark.parametrize("given", ["high", "low"])
def test_published_folder_one_level_too_high_or_low(tmp_path, given):
    root = golden_folder(tmp_path / "all/data", "oxford_pets")
    wrong = root.parent if given == "high" else root / "oxford_pets"
    assert f"pass --data {root}" in fails("OxfordPets", wrong)


@pytest.mark.parametrize(
    ("folder", "alias"),
    [
        ("oxford_pets", "oxford-iiit-pet"), ("oxford_pets", "OxfordPets"), ("dtd", "DTD"), ("food-101", "food101"),
        ("caltech-101", "caltech101"), ("stanford_cars", "StanfordCars"), ("oxford_flowers", "flowers-102"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b"), ("eurosat", "EuroSAT"), ("sun397", "SUN397"),
    ],
)  # fmt: skip
def test_folder_with_another_name_prints_link_command(tmp_path, folder, alias):
    root = golden_folder(tmp_path / "data", folder)
    name = next(n for n in ("OxfordPets", "DescribableTextures", "Food101", "Caltech101", "StanfordCars", "OxfordFlowers",
                            "FGVCAircraft", "EuroSAT", "SUN397") if kind_of(n).dataset_dir == folder)  # fmt: skip
    (root / folder).rename(root / "aside")
    (root / "aside").rename(root / alias)
    message = fails(name, root)
    assert f"run ln -s {root / alias} {root / folder}" in message
    os.system(message[message.index("ln -s") :])
    build(name, root)


def test_archive_unpacked_one_level_deeper_prints_move_command(tmp_path):
    root = golden_folder(tmp_path / "data", "eurosat")
    (root / "eurosat").rename(root / "aside")
    (root / "eurosat").mkdir()
    (root / "aside").rename(root / "eurosat/EuroSAT_RGB")
    message = fails("EuroSAT", root)
    os.system(message[message.index("mv ") :])
    build("EuroSAT", root)


def test_folder_name_with_another_case_prints_move_command(tmp_path):
    root = golden_folder(tmp_path / "data", "oxford_pets")
    (root / "oxford_pets/images").rename(root / "oxford_pets/Images")
    message = fails("OxfordPets", root)
    assert message.endswith(f"run mv {root / 'oxford_pets/Images'} {root / 'oxford_pets/images'}")


def _moved(root, moves):
    for old, new in moves.items():
        aside = root / "aside"
        (root / old).rename(aside)
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        aside.rename(root / new)


@pytest.mark.parametrize(
    ("name", "folder", "moves"),
    [
        ("OxfordPets", "oxford_pets", {"oxford_pets": "pets/oxford-iiit-pet"}),
        ("DescribableTextures", "dtd", {"dtd": "dtd/dtd/dtd"}),
        ("FGVCAircraft", "fgvc_aircraft", {"fgvc_aircraft": "fgvc_aircraft/fgvc-aircraft-2013b/data"}),
        ("OxfordFlowers", "oxford_flowers", {"oxford_flowers": "flowers/flowers-102"}),
        ("EuroSAT", "eurosat", {"eurosat/2750": "eurosat/EuroSAT_RGB"}),
        ("Caltech101", "caltech-101", {"caltech-101/101_ObjectCategories": "caltech-101/a/101_ObjectCategories"}),
        (
            "ImageNet",
            "imagenet",
            {"imagenet/images": "imagenet1k", "imagenet/classnames.txt": "imagenet1k/classnames.txt"},
        ),
        ("ImageNet", "imagenet", {"imagenet/images": "imagenet/ILSVRC/Data/CLS-LOC"}),
        ("ImageNetV2", "imagenetv2", {"imagenetv2/imagenetv2-matched-frequency-format-val": "imagenetv2/ImageNetV2"}),
        ("ImageNetSketch", "imagenet-sketch", {"imagenet-sketch/images": "imagenet-sketch/sketch"}),
        ("ImageNetA", "imagenet-adversarial", {"imagenet-adversarial": "imagenet-a/imagenet-a"}),
        ("ImageNetA", "imagenet-adversarial", {"imagenet-adversarial": "imagenet-adversarial/imagenet-a"}),
        (
            "ImageNetR",
            "imagenet-rendition",
            {
                "imagenet-rendition/imagenet-r": "imagenet-r",
                "imagenet-rendition/classnames.txt": "imagenet-r/classnames.txt",
            },
        ),
    ],
)
def test_layouts_of_other_projects_are_fixed_by_one_command(tmp_path, name, folder, moves):
    root = golden_folder(tmp_path / "data", folder)
    _moved(root, moves)
    if (root / folder).is_dir() and not any((root / folder).iterdir()):
        (root / folder).rmdir()
    message = fails(name, root)
    assert os.system(message.rpartition(": run ")[2]) == 0, message
    build(name, root)


def test_dataset_several_levels_below_is_named(tmp_path):
    root = golden_folder(tmp_path / "all/my/data", "ucf101")
    assert fails("UCF101", tmp_path / "all").endswith(f"pass --data {root}")


def test_own_folder_below_a_read_only_one_is_linked_in_itself(tmp_path, monkeypatch):
    root = golden_folder(tmp_path / "data", "dtd")
    (root / "dtd").rename(root / "mine")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    message = fails("DescribableTextures", root / "mine")
    assert message.endswith(f"run ln -s . {root / 'mine/dtd'}")
    os.system(message.rpartition(": run ")[2])
    build("DescribableTextures", root / "mine")
