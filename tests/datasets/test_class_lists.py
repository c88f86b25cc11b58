"""Class names and class lists: distinct tokens, any line order, known formats."""

import json

import pytest
from conftest import ROOT
from dassl.config import get_cfg_default
from datasets_helpers import build, fails, golden_folder, kind_of, own_folder, touch

from datasets import DatasetError, class_names
from datasets.check import check
from trainers.cli import train


def encode(text):
    """A tokenizer that ignores case and repeated spaces, as CLIP's does."""
    return [ord(letter) for letter in " ".join(text.lower().split())]


@pytest.fixture
def own(tmp_path):
    """Class folders star and moon in train/ and test/."""
    return own_folder(tmp_path)


# ------------------------------------------------------------------------------ class names


@pytest.mark.parametrize("pair", [("red_star", "red star"), ("Heart", "heart"), ("big  moon", "big moon")])
def test_own_classes_with_identical_tokens_are_rejected(tmp_path, pair):
    touch(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "test") for name in (*pair, "circle")))
    dataset = build("ImageFolder", tmp_path)
    with pytest.raises(DatasetError, match="identical tokens of the class names") as error:
        dataset.check_class_names(encode)
    assert all(f'"{name}"' in str(error.value) for name in pair) and "circle" not in str(error.value)
    build("ImageFolder", tmp_path, subsample="base" if pair[0] == "red_star" else "all")
    report = check("image_folder", kind_of("ImageFolder"), tmp_path, tmp_path, quick=True, encode=encode)
    assert not report.complete and "identical tokens" in report.problems[0]


def test_different_classes_pass_the_token_check(own):
    dataset = build("ImageFolder", own)
    dataset.check_class_names(encode)
    assert not dataset.remarks


def test_published_classes_with_identical_tokens_are_warned_of(tmp_path, caplog):
    root = golden_folder(tmp_path / "data", "imagenet")
    names = root / "imagenet/classnames.txt"
    lines = names.read_text().splitlines()
    names.write_text("\n".join([f"{lines[0].split()[0]} {lines[1].split(maxsplit=1)[1]}", *lines[1:]]))
    dataset = build("ImageNet", root)
    dataset.check_class_names(encode)
    (remark,) = dataset.remarks
    assert "identical tokens" in remark and remark in caplog.text and "\n" not in remark
    report = check("imagenet", kind_of("ImageNet"), root, tmp_path, quick=True, encode=encode)
    assert any("identical tokens" in note for note in report.notes)


def test_tokens_may_be_tensors_and_many_groups_are_shortened():
    torch = pytest.importorskip("torch")
    names = [f"{name}{case}" for name in "abcde" for case in ("", " ")]
    groups = class_names.indistinguishable(names, lambda text: torch.tensor([ord(text[0])]))
    assert groups == [[name, f"{name} "] for name in "abcde"]
    assert class_names.describe(groups).endswith("; and 2 more")


# ------------------------------------------------------------------------------ class lists


@pytest.fixture
def v2(tmp_path):
    """ImageNetV2 with four classes; returns (root, the path of classnames.txt)."""
    touch(tmp_path, *(f"imagenetv2/imagenetv2-matched-frequency-format-val/{n}/1.jpeg" for n in range(4)))
    return tmp_path, tmp_path / "imagenetv2/classnames.txt"


LINES = [f"n000000{n}{n} {name}" for n, name in enumerate(["star", "circle", "heart", "square"], 1)]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]])
def test_imagenetv2_ignores_line_order(v2, order):
    root, path = v2
    path.write_text("\n".join(LINES[n] for n in order))
    assert build("ImageNetV2", root).classnames == ["star", "circle", "heart", "square"]


@pytest.mark.parametrize(
    "text",
    [
        "star\ncircle\nheart\nsquare",
        "0 star\n1 circle\n2 heart\n3 square",
        "\n".join(line.replace(" ", ": ") for line in LINES),
        "\n".join(line.replace(" ", ",") for line in LINES),
        "\n".join(line.replace(" ", " 7 ") for line in LINES),
        "\n".join(line.replace(" ", ' "') + '"' for line in LINES),
        "\n".join(f"{line.split()[1]} {line.split()[0]}" for line in LINES),
        json.dumps({str(n): line.split() for n, line in enumerate(LINES)}),
    ],
)
@pytest.mark.parametrize("name", ["ImageNetV2", "ImageNet"])
def test_imagenet_class_list_in_another_format_is_rejected(v2, text, name):
    root, path = v2
    if name == "ImageNet":
        touch(
            root, *(f"imagenet/images/{part}/{line.split()[0]}/1.jpeg" for part in ("train", "val") for line in LINES)
        )
        path = root / "imagenet/classnames.txt"
    path.write_text(text)
    assert str(path) in fails(name, root)


def test_imagenet_class_list_with_synonyms_is_warned_of(v2):
    root, path = v2
    path.write_text("\n".join(f"{line}, {line.split()[1]} shape" for line in LINES))
    assert "4 of 4 class names are lists" in build("ImageNetV2", root).remarks[0]


# ------------------------------------------------------------------------------ new names from a file


def renamed(root, path):
    """Build ImageFolder with `DATASET.CLASSNAMES`."""
    cfg = get_cfg_default()
    cfg.DATASET.SUBSAMPLE_CLASSES, cfg.DATASET.CLASSNAMES = "all", str(path)
    cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS, cfg.SEED, cfg.OUTPUT_DIR = str(root), 1, 1, str(root.parent / "output")
    return kind_of("ImageFolder")(cfg)


@pytest.mark.parametrize(("name", "text"), [("a.json", '{"star": "bright star"}'), ("a.txt", "star\tbright star\n")])
def test_classes_are_renamed_by_a_file(own, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    dataset = renamed(own, tmp_path / name)
    assert dataset.classnames == ["moon", "bright star"]
    assert {(item.label, item.classname) for item in dataset.test} == {(0, "moon"), (1, "bright star")}
    plain = build("ImageFolder", own, shots=1)
    assert [item.impath for item in dataset.train_x] == [item.impath for item in plain.train_x]
    assert dataset.data_fingerprint != plain.data_fingerprint


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"comet": "x"}', 'no class has the name "comet"'),
        ('{"star": "moon"}', 'get the same name "moon"'),
        ('{"star": ""}', "expected {old class name"),
        ('["star"]', "expected {old class name"),
        ("{", "not JSON"),
    ],
)
def test_invalid_renaming_is_rejected(own, tmp_path, text, fault):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=fault) as error:
        renamed(own, tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(error.value)


def test_missing_renaming_file_is_rejected(own, tmp_path):
    with pytest.raises(DatasetError, match="DATASET.CLASSNAMES: .*a.json is not a file"):
        renamed(own, tmp_path / "a.json")


def test_two_folders_of_the_same_name_in_an_own_list_are_rejected(own):
    (own / "classnames.txt").write_text("moon star\nstar star\n")
    with pytest.raises(
        DatasetError, match='classnames.txt: the folders "moon" and "star" get the same class name "star"'
    ):
        build("ImageFolder", own, shots=1)


# ------------------------------------------------------------------------------ in a run


@pytest.mark.parametrize("pair", [("red_star", "red star"), ("Heart", "heart")])
def test_run_on_classes_with_identical_tokens_is_rejected(tmp_path, pair, capsys):
    root = tmp_path / "own"
    touch(root, *(f"{part}/{name}/1.png" for part in ("train", "test") for name in (*pair, "circle")))
    configs = ROOT / "configs"
    arguments = [
        *("--root", root, "--trainer", "ZeroshotCLIP", "--eval-only", "--output-dir", tmp_path / "out"),
        *("--config-file", configs / "trainers/ZeroshotCLIP/shapes.yaml"),
        *("--dataset-config-file", configs / "datasets/image_folder.yaml"),
    ]
    assert train.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ImageFolder: identical tokens") and all(f'"{name}"' in error for name in pair)
