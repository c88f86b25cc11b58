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
