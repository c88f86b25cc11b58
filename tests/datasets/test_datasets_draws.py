"""Few-shot draws on disk: saved, reused, shared between processes, read safely from the family's pickles."""

import builtins
import json
import multiprocessing
import os
import pickle
import random
import sys
import threading
import types
from pathlib import Path

import pytest
from datasets_helpers import build, entries, golden_folder, published

from datasets import DatasetError, kept_files

DATUM = "dassl.data.datasets.base_dataset"


@pytest.fixture
def pets(tmp_path):
    """DATASET.ROOT with OxfordPets in it, as unpacked."""
    return golden_folder(tmp_path / "data", "oxford_pets")


@pytest.fixture
def locked(monkeypatch):
    """Return a function that makes a folder read-only for this process (root ignores file permissions)."""
    really_open, really_make = builtins.open, os.mkdir

    def lock(folder):
        def reject(path):
            if Path(os.fspath(path)).is_relative_to(folder):
                raise PermissionError(13, "Permission denied", str(path))

        def guarded_open(file, mode="r", *args, **kwargs):
            if set(mode) & set("wxa+"):
                reject(file)
            return really_open(file, mode, *args, **kwargs)

        def guarded_make(path, *args, **kwargs):
            reject(path)
            return really_make(path, *args, **kwargs)

        monkeypatch.setattr(builtins, "open", guarded_open)
        monkeypatch.setattr(os, "mkdir", guarded_make)

    return lock


@pytest.fixture
def written_elsewhere(monkeypatch):
    """Return a function that pickles {part: [(path, label, name), ...]} like the CoOp repository."""

    class Datum:
        def __init__(self, impath, label, classname):
            self._impath, self._label, self._domain, self._classname = impath, label, 0, classname

    Datum.__module__, Datum.__qualname__ = DATUM, "Datum"
    module = types.ModuleType(DATUM)
    module.Datum = Datum

    def dump(parts, path):
        path.parent.mkdir(exist_ok=True)
        data = {part: [Datum(*entry) for entry in items] for part, items in parts.items()}
        with monkeypatch.context() as patch, open(path, "wb") as file:
            patch.setitem(sys.modules, DATUM, module)
            pickle.dump(data, file, protocol=pickle.HIGHEST_PROTOCOL)

    return dump


def a_draw(root):
    """Return a draw of OxfordPets that differs from that of any seed: the last image of each class."""
    theirs = published("OxfordPets")
    last = {part: {label: (path, label, name) for path, label, name in theirs[part]} for part in ("train_x", "val")}
    parts = {"train": list(last["train_x"].values()), "val": list(last["val"].values())}
    fresh = build("OxfordPets", root, shots=1)
    assert entries(fresh.train_x, root) != [list(entry) for entry in parts["train"]]
    (root / "oxford_pets/split_fewshot/shot_1-seed_1.json").unlink()
    return parts


def test_draw_is_saved_with_relative_paths_and_reused(pets):
    first = build("OxfordPets", pets, shots=2)
    path = pets / "oxford_pets/split_fewshot/shot_2-seed_1.json"
    kept = json.loads(path.read_text())
    assert kept["train"] == entries(first.train_x, pets / "oxford_pets")
    assert kept["val"] == entries(first.val, pets / "oxford_pets")
    assert os.listdir(path.parent) == [path.name]  # no temporary files left
    (pets / "new file").touch()
    assert path.stat().st_mode == (pets / "new file").stat().st_mode  # readable for others

    kept["train"].reverse()  # recognisable
    path.write_text(json.dumps(kept))
    again = build("OxfordPets", pets, shots=2)
    assert entries(again.train_x, pets / "oxford_pets") == kept["train"]

    moved = pets.rename(pets.with_name("elsewhere"))
    there = build("OxfordPets", moved, shots=2)
    assert entries(there.train_x, moved / "oxford_pets") == kept["train"]


def test_draw_precedes_class_selection(pets):
    everything = entries(build("OxfordPets", pets, shots=2).train_x, pets)
    halves = [entries(build("OxfordPets", pets, shots=2, subsample=s).train_x, pets) for s in ("base", "new")]
    assert sorted(path for half in halves for path, _, _ in half) == sorted(path for path, _, _ in everything)
    (pets / "oxford_pets/split_fewshot/shot_2-seed_1.json").unlink()
    assert entries(build("OxfordPets", pets, shots=2, subsample="new").train_x, pets) == halves[1]


def test_negative_seed_uses_global_random_state(pets):
    picks = []
    for state in (1, 2):
        random.seed(state)
        picks.append(entries(build("OxfordPets", pets, shots=1, seed=-1).train_x, pets))
        (pets / "oxford_pets/split_fewshot/shot_1-seed_-1.json").unlink()
    assert picks[0] != picks[1]
    random.seed(1)
    assert entries(build("OxfordPets", pets, shots=1, seed=-1).train_x, pets) == picks[0]
    assert picks[0] == entries(build("OxfordPets", pets, shots=1, seed=1).train_x, pets)


def test_imagenet_draws_training_images_only(tmp_path):
    root = golden_folder(tmp_path / "data", "imagenet")
    dataset = build("ImageNet", root, shots=1)
    kept = json.loads((root / "imagenet/split_fewshot/shot_1-seed_1.json").read_text())
    assert list(kept) == ["train"] and len(dataset.train_x) == 5 and len(dataset.val) == len(dataset.test) == 15
    assert entries(build("ImageNet", root, shots=1).train_x, root) == entries(dataset.train_x, root)


# ------------------------------------------------------------------------------ the family's pickles


@pytest.mark.parametrize("prefix", [None, "/elsewhere/data"])
def test_family_pickle_is_read(pets, written_elsewhere, prefix):
    draw = a_draw(pets)
    parts = {k: [(f"{prefix or pets}/{path}", y, name) for path, y, name in items] for k, items in draw.items()}
    written_elsewhere(parts, pets / "oxford_pets/split_fewshot/shot_1-seed_1.pkl")
    dataset = build("OxfordPets", pets, shots=1)
    assert entries(dataset.train_x, pets) == [list(entry) for entry in draw["train"]]
    assert entries(dataset.val, pets) == [list(entry) for entry in draw["val"]]
    assert not (pets / "oxford_pets/split_fewshot/shot_1-seed_1.json").exists()


def test_imagenet_pickle_has_train_only(tmp_path, written_elsewhere):
    root = golden_folder(tmp_path / "data", "imagenet")
    draw = list({label: (path, label, name) for path, label, name in published("ImageNet")["train_x"]}.values())
    written_elsewhere(
        {"train": [(f"{root}/{path}", y, name) for path, y, name in draw]},
        root / "imagenet/split_fewshot/shot_1-seed_1.pkl",
    )
    assert entries(build("ImageNet", root, shots=1).train_x, root) == [list(entry) for entry in draw]


def test_json_draw_precedes_pickle_with_warning(pets, written_elsewhere, caplog):
    draw = a_draw(pets)
    ours = entries(build("OxfordPets", pets, shots=1).train_x, pets)
    written_elsewhere(draw, pets / "oxford_pets/split_fewshot/shot_1-seed_1.pkl")
    assert entries(build("OxfordPets", pets, shots=1).train_x, pets) == ours
    assert "shot_1-seed_1.pkl exist: using the first" in caplog.text


class _Call:
    """Pickles as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _malicious(kind, mark):
    code = f"open({str(mark)!r}, 'w')"
    if kind == "instead of the draw":
        return pickle.dumps(_Call(os.system, f"touch '{mark}'"))
    if kind == "inside a list":
        return pickle.dumps({"train": [_Call(eval, code)], "val": []})
    if kind == "as a path":
        return pickle.dumps({"train": [("x", 0, _Call(exec, code))], "val": []}, protocol=0)
    # Datum's name followed by an attribute of another module
    attribute = f"{DATUM}\nDatum.__init__.__globals__"
    return b"c" + attribute.encode() + b"\n."


@pytest.mark.parametrize("kind", ["instead of the draw", "inside a list", "as a path", "an attribute of Datum"])
def test_pickle_with_code_is_rejected(pets, tmp_path, kind):
    mark = tmp_path / "it ran"
    content = _malicious(kind, mark)
    if kind != "an attribute of Datum":
        pickle.loads(content)
        assert mark.exists()  # unprotected loading runs the code
        mark.unlink()
    path = pets / "oxford_pets/split_fewshot/shot_1-seed_1.pkl"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="shot_1-seed_1.pkl: not a safe few-shot pickle"):
        build("OxfordPets", pets, shots=1)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1, 2]), pickle.dumps({"train": ["x"]})])
def test_pickle_without_draw_is_rejected(pets, content):
    path = pets / "oxford_pets/split_fewshot/shot_1-seed_1.pkl"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="shot_1-seed_1.pkl: not a safe few-shot pickle"):
        build("OxfordPets", pets, shots=1)


# ------------------------------------------------------------------------------ draws that do not match


def _stranger(draw):
    draw["train"][0][0] = "images/stranger_1.jpg"


def _test_image(draw):
    draw["train"][0][0] = "images/" + published("OxfordPets")["test"][0][0].split("/")[-1]


def _other_label(draw):
    draw["train"][0][1] += 1


def _class_missing(draw):
    draw["train"] = [entry for entry in draw["train"] if entry[1] != 2]


def _no_val(draw):
    del draw["val"]


def _no_labels(draw):
    draw["train"] = [path for path, _, _ in draw["train"]]


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_stranger, '"images/stranger_1.jpg" is not one of the train images'),
        (_test_image, "is not one of the train images"),
        (_other_label, "expected 1 as in the split|expected 0 as in the split"),
        (_class_missing, "no train image of label 2"),
        (_no_val, 'no "val" images'),
        (_no_labels, "not a few-shot draw"),
    ],
)
def test_draw_of_other_data_is_rejected(pets, spoil, fault):
    build("OxfordPets", pets, shots=1)
    path = pets / "oxford_pets/split_fewshot/shot_1-seed_1.json"
    draw = json.loads(path.read_text())
    spoil(draw)
    path.write_text(json.dumps(draw))
    with pytest.raises(DatasetError, match=fault) as error:
        build("OxfordPets", pets, shots=1)
    assert str(path) in str(error.value) and "Delete" in str(error.value)


# ------------------------------------------------------------------------------ writing


def test_read_only_data_saves_draw_in_output(pets, tmp_path, locked, caplog):
    unlocked = entries(build("OxfordPets", pets, shots=1).train_x, pets)
    path = pets / "oxford_pets/split_fewshot/shot_1-seed_1.json"
    path.unlink()
    path.parent.rmdir()
    locked(pets)
    dataset = build("OxfordPets", pets, shots=1, output=tmp_path / "run")
    assert entries(dataset.train_x, pets) == unlocked
    kept = tmp_path / "run/split_fewshot/OxfordPets-shot_1-seed_1.json"
    assert json.loads(kept.read_text())["train"] == entries(dataset.train_x, pets / "oxford_pets")
    assert f"Cannot write {path} (Permission denied): writing {kept}" in caplog.text

    draw = json.loads(kept.read_text())
    draw["train"].reverse()
    kept.write_text(json.dumps(draw))
    again = build("OxfordPets", pets, shots=1, output=tmp_path / "run")
    assert entries(again.train_x, pets / "oxford_pets") == draw["train"]


def test_read_only_data_saves_split_in_output(pets, tmp_path, locked):
    root = golden_folder(tmp_path / "data", "food-101")
    (root / "food-101/split_zhou_Food101.json").unlink()
    locked(root)
    dataset = build("Food101", root, output=tmp_path / "run")
    kept = json.loads((tmp_path / "run/split_fewshot/Food101-split_own.json").read_text())
    assert [e[0] for e in kept["test"]] == [e[0] for e in entries(dataset.test, root / "food-101/images")]


def test_failed_write_keeps_old_file(tmp_path, monkeypatch):
    path = tmp_path / "draw.json"
    kept_files.write_json(path, {"train": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept_files.write_json(path, {"train": 2})
    assert json.loads(path.read_text()) == {"train": 1} and os.listdir(tmp_path) == ["draw.json"]


def test_readers_see_complete_files_only(tmp_path):
    path = tmp_path / "draw.json"
    contents = [{"train": [number] * 5000} for number in range(4)]
    kept_files.write_json(path, contents[0])
    writers = [
        threading.Thread(target=lambda c=c: [kept_files.write_json(path, c) for _ in range(15)]) for c in contents
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert json.loads(path.read_text()) in contents
    assert os.listdir(tmp_path) == ["draw.json"]


def _build_and_report(root, barrier, reports, number):
    barrier.wait()
    dataset = build("OxfordPets", root, shots=2, subsample=("base", "new")[number % 2])
    reports.put((number, entries(dataset.train_x, root)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_concurrent_processes_share_draw(pets):
    alone = [entries(build("OxfordPets", pets, shots=2, subsample=s).train_x, pets) for s in ("base", "new")]
    path = pets / "oxford_pets/split_fewshot/shot_2-seed_1.json"
    path.unlink()
    context = multiprocessing.get_context("fork")
    barrier, reports = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_build_and_report, args=(pets, barrier, reports, i)) for i in range(4)]
    for process in processes:
        process.start()
    for _ in processes:
        number, picks = reports.get(timeout=60)
        assert picks == alone[number % 2]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert os.listdir(path.parent) == [path.name]
