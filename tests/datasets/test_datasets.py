"""Readers return what the published ones return, with and without the split files."""

import json
import random
import re
import shutil
from collections import Counter

import pytest
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from datasets_helpers import EXPECTED, GOLDEN, build, entries, golden_folder, kind_of, move, published, touch

import datasets
from datasets.listed import SplitFileDataset

CONFIGS = GOLDEN.parents[1] / "configs" / "datasets"
FAMILY = [  # the fifteen of the CoOp repository
    "Caltech101", "DescribableTextures", "EuroSAT", "FGVCAircraft", "Food101", "ImageNet", "ImageNetA", "ImageNetR",
    "ImageNetSketch", "ImageNetV2", "OxfordFlowers", "OxfordPets", "StanfordCars", "SUN397", "UCF101",
]  # fmt: skip
PICKS = json.loads((GOLDEN / "toolbox" / "few_shot_picks.json").read_text())


def case_name(case):
    return "-".join(str(case[key]) for key in ("dataset", "split", "shots", "seed", "subsample") if key in case)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return golden_folder(tmp_path_factory.mktemp("golden") / "data")


@pytest.fixture(scope="module")
def pick_roots(tmp_path_factory):
    roots = {}
    for name, split in PICKS["splits"].items():
        roots[name] = tmp_path_factory.mktemp(name)
        folder = roots[name] / "oxford_pets"
        touch(folder / "images", *(image for part in split.values() for image, _, _ in part))
        (folder / "split_zhou_OxfordPets.json").write_text(json.dumps(split))
    return roots


@pytest.mark.parametrize("case", EXPECTED, ids=case_name)
def test_reader_equals_published_reader(case, data):
    name, shots = case["dataset"], case["shots"]
    shutil.rmtree(data / kind_of(name).dataset_dir / "split_fewshot", ignore_errors=True)
    random.seed(99)  # the global random state must not matter
    dataset = build(name, data, shots, case["seed"], case["subsample"])
    assert dataset.classnames == case["classnames"] and dataset.num_classes == case["num_classes"]
    for part in ("train_x", "val", "test"):
        ours, theirs = entries(getattr(dataset, part), data), case[part]
        if not name.startswith("ImageNet"):
            assert ours == theirs, part
        elif part == "train_x" and shots > 0:  # the published picks depend on the file system's order
            assert Counter(label for _, label, _ in ours) == Counter(label for _, label, _ in theirs)
        else:
            assert sorted(ours) == sorted(theirs), part


@pytest.mark.parametrize("case", PICKS["cases"], ids=case_name)
def test_few_shot_picks_equal_published_picks(case, pick_roots):
    root = pick_roots[case["split"]]
    shutil.rmtree(root / "oxford_pets" / "split_fewshot", ignore_errors=True)
    dataset = build("OxfordPets", root, case["shots"], case["seed"], case["subsample"])
    for part in ("train_x", "val", "test"):
        assert entries(getattr(dataset, part), root / "oxford_pets" / "images") == case[part], part
    assert dataset.classnames == case["classnames"] and dataset.num_classes == case["num_classes"]


def test_imagenet_images_are_sorted(data):
    for name in ("ImageNet", "ImageNetSketch", "ImageNetA"):
        images = entries(build(name, data).test, data)
        assert images == sorted(images)


def test_imagenetv2_labels_are_folder_names(data):
    # more than ten folders: numeric order ("10" after "9") differs from alphabetical order
    folder = data / "imagenetv2"
    images = "imagenetv2-matched-frequency-format-val"
    touch(folder / images, *(f"{label}/a.jpeg" for label in range(15)))
    lines = [f"n{label:08d} name {label}\n" for label in range(15)]
    (folder / "classnames.txt").write_text("".join(reversed(lines)))  # the order of the lines does not matter
    dataset = build("ImageNetV2", data)
    assert dataset.classnames == [f"name {label}" for label in range(15)] and dataset.val is None
    for path, label, name in entries(dataset.test, folder / images):
        assert path.split("/")[0] == str(label) and name == f"name {label}"


@pytest.mark.parametrize("name", ["ImageNetA", "ImageNetSketch"])
def test_no_draw_from_test_set(name, data):
    dataset = build(name, data, shots=1)
    assert len(dataset.test) == len(published(name)["test"])
    assert not (data / kind_of(name).dataset_dir / "split_fewshot").exists()


def test_base_and_new_classes_of_test_set(data):
    assert build("ImageNetA", data, subsample="base").classnames == ["goldfish", "great white shark"]
    assert {item.label for item in build("ImageNetA", data, subsample="new").test} == {0}


def test_root_relative_or_in_home(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    monkeypatch.setenv("HOME", str(data.parent))
    for root in ("data", "~/data"):
        assert entries(build("OxfordPets", root, output="out").test, data) == published("OxfordPets")["test"]


# ------------------------------------------------------------------------------ without the split file


def annotate_pets(folder, trainval, test):
    for name, items in (("trainval", trainval), ("test", test)):
        lines = [f"{path.removesuffix('.jpg')} {label + 1} 1 2" for path, label, _ in items]
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{name}.txt").write_text("\n".join(["# Image CLASS-ID SPECIES BREED", *lines]))


def annotate_cars(folder, trainval, test):
    io = pytest.importorskip("scipy.io")
    np = pytest.importorskip("numpy")
    (folder / "devkit").mkdir()
    names = {label: re.sub(r"(\d{4}) (.*)", r"\2 \1", name) for _, label, name in trainval}
    cells = np.empty((1, len(names)), dtype=object)
    cells[0, :] = [names[label] for label in range(len(names))]
    io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": cells})
    files = (("devkit/cars_train_annos.mat", trainval), ("cars_test_annos_withlabels.mat", test))
    for file, items in files:
        rows = np.empty((1, len(items)), dtype=[("fname", object), ("class", object)])
        for i, (path, label, _) in enumerate(items):
            rows[0, i] = (path.split("/")[1], np.array([[label + 1]], dtype=np.uint8))
        io.savemat(folder / file, {"annotations": rows})
    for path, _, _ in test:  # the mini split has them in cars_train
        move(folder / path, folder / path.replace("cars_train", "cars_test"))


def annotate_sun(folder, trainval, test):
    classes = {label: "/" + path.rpartition("/")[0] for path, label, _ in trainval}
    (folder / "ClassName.txt").write_text("\n".join(classes[label] for label in sorted(classes)))
    for name, items in (("Training_01", trainval), ("Testing_01", test)):
        (folder / f"{name}.txt").write_text("\n".join("/" + path for path, _, _ in items))


def annotate_ucf(folder, trainval, test):
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    names = {label: name.replace("_", "") for _, label, name in trainval}
    (lists / "classInd.txt").write_text("".join(f"{label + 1} {name}\r\n" for label, name in names.items()))
    for name, items, with_label in (("trainlist01", trainval, True), ("testlist01", test, False)):
        lines = (
            f"{names[label]}/{path.split('/')[1].replace('.jpg', '.avi')}" + f" {label + 1}" * with_label
            for path, label, _ in items
        )
        (lists / f"{name}.txt").write_text("\n".join(lines))


ANNOTATED = {
    "OxfordPets": annotate_pets, "StanfordCars": annotate_cars, "SUN397": annotate_sun, "UCF101": annotate_ucf,
}  # fmt: skip


def without_split(name, data, tmp_path):
    """Copy a dataset without its split file; return (root, folder, the split)."""
    kind = kind_of(name)
    folder = shutil.copytree(data / kind.dataset_dir, tmp_path / "data" / kind.dataset_dir)
    shutil.rmtree(folder / "split_fewshot", ignore_errors=True)
    split = json.loads((folder / f"split_zhou_{name}.json").read_text())
    (folder / f"split_zhou_{name}.json").unlink()
    return folder.parent, folder, split


@pytest.mark.parametrize("name", sorted(ANNOTATED))
def test_raw_annotations(name, data, tmp_path, caplog):
    root, folder, split = without_split(name, data, tmp_path)
    trainval = split["train"] + split["val"]
    ANNOTATED[name](folder, trainval, split["test"])
    dataset = build(name, root)

    theirs = published(name)
    assert dataset.classnames == theirs["classnames"]
    test = [[path.replace("cars_train", "cars_test"), *rest] for path, *rest in theirs["test"]]
    assert sorted(entries(dataset.test, root)) == sorted(test)
    ours = entries(dataset.train_x, root) + entries(dataset.val, root)
    assert sorted(ours) == sorted(theirs["train_x"] + theirs["val"])
    sizes, val_sizes = (Counter(label for _, label, _ in items) for items in (trainval, entries(dataset.val, root)))
    assert val_sizes == {label: round(0.2 * size) for label, size in sizes.items()}
    assert f"no split_zhou_{name}.json" in caplog.text and "not the published split" in caplog.text


@pytest.mark.parametrize("name", ["Caltech101", "DescribableTextures", "EuroSAT", "Food101"])
def test_raw_class_folders(name, data, tmp_path, caplog):
    root, folder, split = without_split(name, data, tmp_path)
    images = folder / kind_of(name).image_dir
    if name == "Caltech101":
        touch(images, "BACKGROUND_Google/1.jpg", "Faces_easy/1.jpg")
    dataset = build(name, root)

    folders = sorted({path.split("/")[0] for part in split.values() for path, _, _ in part})
    expected_names = {path.split("/")[0]: label_name for part in split.values() for path, _, label_name in part}
    if name == "Caltech101":  # the published split renames more than the raw reader does
        expected_names["cougar_body"] = "cougar_body"
    assert dataset.classnames == [expected_names[folder] for folder in folders]
    found = []
    for part, share in (("train_x", 0.5), ("val", 0.2), ("test", None)):
        items = entries(getattr(dataset, part), images)
        found += items
        for label, class_folder in enumerate(folders):
            mine = [path for path, y, _ in items if y == label]
            assert mine and all(path.startswith(f"{class_folder}/") for path in mine)
            if share:
                assert len(mine) == round(share * len(list((images / class_folder).iterdir())))
    assert len(found) == len({path for path, _, _ in found}) == sum(len(part) for part in split.values())
    assert "not the published split" in caplog.text


def test_raw_flowers(tmp_path, caplog):
    io = pytest.importorskip("scipy.io")
    folder = tmp_path / "data" / "oxford_flowers"
    labels = [2, 1, 2, 2, 1, 1, 1, 2, 2, 1, 2]
    touch(folder / "jpg", *(f"image_{i:05d}.jpg" for i in range(1, len(labels) + 1)))
    io.savemat(folder / "imagelabels.mat", {"labels": [labels]})
    (folder / "cat_to_name.json").write_text(json.dumps({"2": "hard-leaved orchid", "1": "pink primrose"}))
    dataset = build("OxfordFlowers", tmp_path / "data")
    assert dataset.classnames == ["pink primrose", "hard-leaved orchid"]
    found = [e for part in (dataset.train_x, dataset.val, dataset.test) for e in entries(part, folder / "jpg")]
    assert {int(path[6:11]): label for path, label, _ in found} == {i: y - 1 for i, y in enumerate(labels, 1)}
    assert [len(dataset.train_x), len(dataset.val), len(dataset.test)] == [5, 2, 4]
    assert "not the published split" in caplog.text


def test_own_split_is_kept_and_independent_of_seed(data, tmp_path, caplog):
    root, folder, _ = without_split("Food101", data, tmp_path)
    first = build("Food101", root, seed=1)
    kept = (folder / "split_own.json").read_text()
    caplog.clear()
    second = build("Food101", root, seed=2)
    assert entries(first.train_x, root) == entries(second.train_x, root)
    assert (folder / "split_own.json").read_text() == kept
    assert "not the published split" in caplog.text  # repeated: the kept split is not the published one either
    (folder / "split_own.json").unlink()
    assert entries(build("Food101", root, seed=3).train_x, root) == entries(first.train_x, root)


# ------------------------------------------------------------------------------ names and configurations


def test_readers_are_registered():
    assert {*FAMILY, "ImageFolder", "ImageCSV"} <= set(DATASET_REGISTRY.registered_names())


def test_readers_and_configurations_match():
    named = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        cfg = get_cfg_default()
        cfg.DATASET.SUBSAMPLE_CLASSES = "all"
        cfg.merge_from_file(str(path))
        assert cfg.DATASET.NAME, path
        named.append(cfg.DATASET.NAME)
    ours = {
        name
        for name in DATASET_REGISTRY.registered_names()
        if kind_of(name).__module__.startswith(f"{datasets.__name__}.")
    }
    assert sorted(named) == sorted(ours)


def test_split_files_have_published_names(data):
    kinds = [kind_of(name) for name in FAMILY]
    with_split = {f"{k.dataset_dir}/split_zhou_{k.__name__}.json" for k in kinds if issubclass(k, SplitFileDataset)}
    assert with_split == {str(path.relative_to(data)) for path in data.glob("*/split_zhou_*.json")}
