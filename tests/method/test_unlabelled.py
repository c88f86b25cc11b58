"""Phase 1 on unlabelled images: in addition to a dataset's own, and without any labelled image."""

import json
import random

import protocol
import pytest
import toy
from PIL import Image

from trainers.cli import boost, train
from trainers.cli.program import guarded
from trainers.config import ConfigError
from trainers.method import unlabelled
from trainers.method.prompt_file import load_boosting, read_info

NAMES = ["red square", "blue circle", "green star"]


def draw(folder, *names, seed=0):
    """Write small images of random colours."""
    colours = random.Random(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), tuple(colours.randrange(256) for _ in range(3))).save(path)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a folder with the toy dataset, CLIPs, and two folders of unlabelled images."""
    root = tmp_path_factory.mktemp("unlabelled")
    protocol.prepare(root)
    draw(root / "more", "a.png", "deep/b.jpg", seed=1)
    draw(root / "others", "c.png", "d.png", "deep/e.png", seed=2)
    return root


def phase_1(root, folder, *pairs, **more):
    """Return the command line of a short phase 1."""
    return toy.command(root, "CasPL", folder, *pairs, OPTIM__MAX_EPOCH=1, **more)


def test_added_images_are_trained_on_and_recorded(root, tmp_path):
    folders = [str(root / "more"), str(root / "others")]
    train.run(phase_1(root, tmp_path / "alone"))
    train.run([*phase_1(root, tmp_path / "run"), "TRAINER.CASPL.IMAGES", repr(folders)])
    alone, info = (read_info(tmp_path / name / "boosting.safetensors") for name in ("alone", "run"))
    assert (info.images, info.added_images) == (alone.images, 5) and alone.added_images == 0
    assert info.data == alone.data and info.identity != alone.identity
    (item,) = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert (item["images"], item["added_images"], item["labels"]) == (alone.images, 5, False)
    prompts = [load_boosting(tmp_path / name / "boosting.safetensors")[0].vision for name in ("alone", "run")]
    assert not prompts[0].equal(prompts[1])


def test_added_images_count_in_cascaded_ledger(root, tmp_path):
    train.run([*phase_1(root, tmp_path / "boost"), "TRAINER.CASPL.IMAGES", str(root / "more")])
    more = {"TRAINER__CASPL__CHECKPOINT": tmp_path / "boost", "OPTIM__MAX_EPOCH": 1}
    train.run(toy.command(root, "CasPL_CoOp", tmp_path / "run", **more))
    boosting, adapting = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert boosting["added_images"] == 2 and "added_images" not in adapting


def test_cache_has_rows_for_added_images(root, tmp_path):
    pairs = ["TRAINER.CASPL.IMAGES", str(root / "more"), "TRAINER.CASPL.TEACHER.CACHE", str(tmp_path / "cache")]
    train.run([*phase_1(root, tmp_path / "run"), *pairs])
    train.run([*phase_1(root, tmp_path / "again"), *pairs])
    files = [tmp_path / name / "boosting.safetensors" for name in ("run", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    (described,) = (tmp_path / "cache").glob("*.json")
    assert json.loads(described.read_text())["images"] == read_info(files[0]).images + 2


def test_finished_phase_1_with_other_added_images_is_rejected(root, tmp_path, capsys):
    line = [*phase_1(root, tmp_path / "run"), "TRAINER.CASPL.IMAGES"]
    folder = draw(tmp_path / "more", "a.png", seed=1)
    train.run([*line, str(folder)])
    assert guarded(lambda: train.run([*line, str(root / "others")])) == 2
    assert "TRAINER.CASPL.IMAGES" in capsys.readouterr().err
    draw(folder, "b.png", seed=2)
    assert guarded(lambda: train.run([*line, str(folder)])) == 2
    assert "added images" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "empty", "overlap", "link"])
def test_bad_folders_are_named(root, tmp_path, kind):
    (tmp_path / "empty").mkdir()
    folders = {
        "missing": [str(tmp_path / "none")],
        "empty": [str(tmp_path / "empty")],
        "overlap": [str(root / "more"), str(root / "more" / "deep")],
        "link": [str(root / "more"), str(tmp_path / "link")],
    }
    (tmp_path / "link").symlink_to(root / "more")
    with pytest.raises(ConfigError, match="TRAINER.CASPL.IMAGES"):
        unlabelled.list_images(folders[kind])


def test_fingerprint_covers_paths_and_sizes_but_not_the_place(root, tmp_path):
    def of(folder):
        return unlabelled.fingerprint(unlabelled.list_images([str(folder)]), [str(folder)])

    copied = draw(tmp_path / "copied", "a.png", "deep/b.jpg", seed=1)
    assert of(root / "more") == of(copied) != of(root / "others")
    draw(tmp_path / "copied", "f.png")
    assert of(root / "more") != of(copied)


def test_hidden_files_are_left_out_and_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    draw(tmp_path / "photos", "a.png", "._a.png", ".trash/b.png")
    assert [item.impath for item in unlabelled.list_images(["~/photos"])] == [str(tmp_path / "photos" / "a.png")]


@pytest.mark.parametrize("kind", ["test image", "training image", "no image"])
def test_added_image_is_checked_before_training(root, tmp_path, capsys, kind):
    folder = draw(tmp_path / "added", "a.png", seed=1)
    if kind == "no image":
        (folder / "b.png").write_text("<html>")
    else:
        (folder / "b.png").symlink_to(root / "toy" / f"{kind.split('ing')[0].split()[0]}_0_0.png")
    line = [*phase_1(root, tmp_path / "run"), "TRAINER.CASPL.IMAGES", str(folder)]
    assert guarded(lambda: train.run(line)) == 2
    error = capsys.readouterr().err
    assert "b.png" in error and ("cannot decode" if kind == "no image" else "is an image of the dataset") in error
    assert not (tmp_path / "run" / "ledger.json").exists()


def test_one_image_under_two_names_is_rejected(root, flat, tmp_path, capsys):
    (flat / "link.png").symlink_to(flat / "1.png")
    assert boosted(root, flat, tmp_path / "out") == 2
    assert "1.png and link.png are the same file" in capsys.readouterr().err


@pytest.fixture
def flat(tmp_path):
    """Return a folder of unlabelled images and class names."""
    draw(tmp_path / "flat", "1.png", "2.png", "below/3.png", "below/deep/4.png")
    (tmp_path / "flat" / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path / "flat"


def boosted(root, flat, output, *pairs):
    """Run `caspl boost` on the folder; return the exit code."""
    small = [
        "MODEL.BACKBONE.NAME",
        str(root / "student.pt"),
        "TRAINER.CASPL.TEACHER.BACKBONE",
        str(root / "teacher.pt"),
    ]
    small += ["OPTIM.MAX_EPOCH", "1", "INPUT.SIZE", "(16, 16)", "TRAINER.CASPL.DEPTH_TEXT", "2", "USE_CUDA", "False"]
    small += ["TRAINER.CASPL.DEPTH_VISION", "2", "DATALOADER.NUM_WORKERS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", "2"]
    small += ["TRAINER.CASPL.PREC", "fp32", "TRAINER.CASPL.TEACHER.TEMPLATE", "a photo of a {}."]
    return boost.main(["unlabelled_folder", "--data", str(flat), "--output", str(output), *small, *pairs])


def test_phase_1_needs_no_labelled_image(root, flat, tmp_path):
    assert boosted(root, flat, tmp_path / "out") == 0
    info = read_info(tmp_path / "out" / "boosting" / "unlabelled_folder" / "boosting.safetensors")
    assert info.class_names == NAMES and info.images == 4 and not info.labels
    assert sorted(path.name for path in flat.iterdir()) == ["1.png", "2.png", "below", "classnames.txt"]


def test_unlabelled_folder_is_neither_adapted_to_nor_tested(root, flat, tmp_path, capsys):
    assert boosted(root, flat, tmp_path / "out", "TEST.NO_TEST", "False") == 2
    assert "has no labels" in capsys.readouterr().err
    line = toy.command(root, "CoOp", tmp_path / "run", OPTIM__MAX_EPOCH=1)
    line = [*line, "DATASET.NAME", "UnlabelledFolder", "DATASET.ROOT", str(flat), "DATASET.NUM_SHOTS", "-1"]
    assert guarded(lambda: train.run([*line, "TEST.NO_TEST", "True"])) == 2
    assert "has no labels; expected a labelled dataset for CoOp" in capsys.readouterr().err


@pytest.mark.parametrize("names", ["", "one", "cat\ncat\n"])
def test_class_list_must_name_each_class_once(root, flat, tmp_path, capsys, names):
    (flat / "classnames.txt").write_text(names)
    assert boosted(root, flat, tmp_path / "out") == 2
    assert "classnames.txt" in capsys.readouterr().err
