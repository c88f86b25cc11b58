"""What a protocol's run belongs to: its data, its settings and its boosting prompt; never answered with another's result."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import torch
import yaml
from children import ALONE, ROOT
from PIL import Image

from trainers import config
from trainers.backbones import find_weights
from trainers.cli import boost, protocols, results, train
from trainers.experiments import runs
from trainers.experiments.setting import Setting
from trainers.storage import atomic
from trainers.storage.tensors import read_weights
from trainers.training import identity

CLASSES = {"one": ["circle", "star"], "two": ["square", "triangle"]}
SMALL = [
    *("MODEL.BACKBONE.NAME", "shapes-student", "INPUT.SIZE", "(48, 48)"),
    *("TRAINER.CASPL.TEACHER.BACKBONE", "shapes-teacher", "TRAINER.CASPL.DEPTH_TEXT", "2"),
    *("TRAINER.CASPL.DEPTH_VISION", "3", "OPTIM.MAX_EPOCH", "1"),
    *("--boost", "OPTIM.MAX_EPOCH", "1"),
]


def draw(root, names, seed=1, levels=255):
    """Write two training and two test images for each class; the number of grey levels determines the files' sizes."""
    rng = np.random.default_rng(seed)
    for part in ("train", "test"):
        for name in names:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = rng.integers(0, levels, (48, 48, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    """Two collections of images, and one with the classes of the first but other images."""
    root = tmp_path_factory.mktemp("collections")
    for name, classes in CLASSES.items():
        draw(root / name, classes)
    draw(root / "again", CLASSES["one"], seed=2, levels=100)
    return root


@pytest.fixture(scope="module")
def finished(collections, tmp_path_factory):
    """The output folder of a few-shot run on the first collection."""
    output = tmp_path_factory.mktemp("output")
    assert few_shot(collections / "one", output) == 0
    return output


@pytest.fixture
def output(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "output")


def few_shot(data, output, *more):
    """Run the few-shot command on a collection; return its exit code."""
    return protocols.main(
        "few_shot",
        ["image_folder", "1", "1", "--host", "coop", "--data", str(data), "--output", str(output), *SMALL, *more],
    )


def files(folder):
    """Return the contents of all files in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("other", ["two", "again"])
@pytest.mark.parametrize("more", [[], ["--baseline"]])
def test_other_images_are_rejected(collections, output, capsys, other, more):
    before = files(output)
    assert few_shot(collections / other, output, *more) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: ")
    assert ("square" if other == "two" else "other images") in error[0] and "--output" in error[0]
    assert files(output) == before


def test_other_images_are_rejected_by_boost_and_base2new(collections, output, capsys):
    places = ["--data", str(collections / "two"), "--output", str(output)]
    small = [*SMALL[:-3]]
    assert boost.main(["image_folder", *places, *small]) == 2
    assert "square" in capsys.readouterr().err
    assert protocols.main("base2new", ["image_folder", "1", "--host", "coop", *places, *SMALL]) == 2
    assert "square" in capsys.readouterr().err


def test_other_images_are_rejected_after_phase_1_was_removed(collections, output, capsys):
    shutil.rmtree(output / "boosting")
    assert few_shot(collections / "again", output) == 2
    assert "other images of image_folder" in capsys.readouterr().err


def test_same_images_in_another_place_are_the_same(collections, output, tmp_path, caplog):
    moved = shutil.copytree(collections / "one", tmp_path / "moved")
    assert few_shot(moved, output) == 0
    assert "CasPL_CoOp is finished" in caplog.text


def test_removed_phase_1_is_trained_again_and_runs_stay_valid(collections, output, caplog):
    (result,) = output.glob("few_shot/*/CasPL_CoOp/*/*/result.json")
    before, prompt = result.read_bytes(), (output / "boosting/image_folder/boosting.safetensors").read_bytes()
    shutil.rmtree(output / "boosting")
    assert few_shot(collections / "one", output) == 0
    assert "CasPL_CoOp is finished" in caplog.text and result.read_bytes() == before
    assert (output / "boosting/image_folder/boosting.safetensors").read_bytes() == prompt


def test_other_boosting_prompt_is_rejected(collections, output, capsys):
    shutil.rmtree(output / "boosting")
    line = [*SMALL, "TRAINER.CASPL.TEMPERATURE", "2.0"]
    assert few_shot(collections / "one", output, *line[len(SMALL) :]) == 2
    assert "another boosting prompt" in capsys.readouterr().err
    assert not (output / "boosting").exists(), "phase 1 was trained first"


@pytest.mark.parametrize("damage", ["emptied", "removed"])
def test_settings_of_boosting_prompt_are_compared_without_config_yaml(collections, output, capsys, damage):
    kept = output / "boosting" / "image_folder" / "config.yaml"
    kept.write_text("") if damage == "emptied" else kept.unlink()
    assert few_shot(collections / "one", output) == 0
    capsys.readouterr()
    assert few_shot(collections / "one", output, "TRAINER.CASPL.TEMPERATURE", "2.0") == 2
    error = capsys.readouterr().err
    assert "its config.yaml is missing or empty" in error and "TRAINER.CASPL.TEMPERATURE 2.0" in error


def with_weights(collections, output, student, teacher):
    """Run the few-shot command with weight files; return its exit code."""
    files = ["MODEL.BACKBONE.NAME", str(student), "--boost", "TRAINER.CASPL.TEACHER.BACKBONE", str(teacher)]
    return few_shot(collections / "one", output, "--baseline", *files)


def test_weight_files_are_compared_by_content(collections, tmp_path, capsys, caplog):
    files_of = {name: tmp_path / f"{name}.pt" for name in ("student", "teacher")}
    for name, path in files_of.items():
        shutil.copy(find_weights(f"shapes-{name}"), path)
    output = tmp_path / "output"
    assert with_weights(collections, output, **files_of) == 0
    before = {path: path.read_bytes() for path in output.rglob("result.json")}
    moved = {name: path.rename(tmp_path / f"renamed_{name}.pt") for name, path in files_of.items()}
    caplog.clear()
    assert with_weights(collections, output, **moved) == 0
    assert caplog.text.count(" is finished: ") == 5  # phase 1, both hosts, zero-shot and boosted CLIP
    assert {path: path.read_bytes() for path in before} == before
    state, others = read_weights(moved["student"])
    torch.save(
        {"state_dict": {k: v * 1.5 if k == "visual.proj" else v for k, v in state.items()}} | others, moved["student"]
    )
    for removed in ("boosting", "few_shot/image_folder/CasPL_CoOp", "few_shot/image_folder/CoOp"):
        capsys.readouterr()
        assert with_weights(collections, output, **moved) == 2
        assert "MODEL.BACKBONE.NAME: " in capsys.readouterr().err
        shutil.rmtree(output / removed)
    assert with_weights(collections, output, **moved) == 0  # zero-shot CLIP is measured again
    (zero_shot,) = output.glob("few_shot/*/ZeroshotCLIP/result.json")
    assert zero_shot.read_bytes() != before[zero_shot]


@pytest.mark.parametrize("damage", ["emptied", "removed"])
def test_settings_are_compared_without_config_yaml(collections, output, capsys, damage):
    (kept,) = output.glob("few_shot/*/CasPL_CoOp/*/*/config.yaml")
    kept.write_text("") if damage == "emptied" else kept.unlink()
    assert few_shot(collections / "one", output, "--adapt", "OPTIM.LR", "0.5") == 2
    assert "OPTIM.LR" in capsys.readouterr().err


def test_result_records_sizes_in_use(collections, tmp_path, capsys):
    places = ["--data", str(collections / "one"), "--output", str(tmp_path)]
    small = SMALL[:-3]
    assert boost.main(["image_folder", *places, *small, "TRAINER.CASPL.N_CTX_VISION", "4"]) == 0
    assert few_shot(collections / "one", tmp_path) == 0
    (path,) = tmp_path.glob("few_shot/*/CasPL_CoOp/*/*/result.json")
    result = json.loads(path.read_text())
    assert result["boosting"]["vision_tokens"] == 4 and result["boosting"]["template"]


def test_pair_that_does_not_reach_phase_1_is_announced(collections, tmp_path, capsys):
    arguments = [
        "image_folder",
        "1",
        "1",
        "--host",
        "coop",
        "--data",
        str(collections / "one"),
        "--output",
        str(tmp_path),
    ]
    assert protocols.main("few_shot", [*arguments, *SMALL[:-3]]) == 0
    line = "Not set in phase 1: OPTIM.MAX_EPOCH 1 (to set it there: --boost OPTIM.MAX_EPOCH 1)"
    assert capsys.readouterr().out.splitlines().count(line) == 1
    (kept,) = tmp_path.glob("boosting/*/config.yaml")
    assert "MAX_EPOCH: 1\n" not in kept.read_text()


def test_pairs_for_one_phase_reach_it_alone(finished):
    (boosting,) = finished.glob("boosting/*/config.yaml")
    assert "MAX_EPOCH: 1\n" in boosting.read_text()


def test_finished_protocol_is_read_from_a_read_only_disk(collections, output, monkeypatch):
    def read_only(folder):
        raise OSError(f"{folder}: read-only file system")

    monkeypatch.setattr(runs, "locked", read_only)
    assert few_shot(collections / "one", output) == 0
    assert results.main([str(output)]) == 0


def grid(data, output, *more):
    """Run a grid of few-shot runs on a collection; return its exit code."""
    line = ["few_shot", "--datasets", "image_folder", "--hosts", "coop", "--seeds", "1", "2", "--shots-list", "1"]
    return protocols.main("reproduce", [*line, "--data", str(data), "--output", str(output), *SMALL, *more])


def rejected_grid(capsys, data, output, *more):
    """Return the only line on stderr of a grid that ends before its first job."""
    capsys.readouterr()
    assert grid(data, output, *more) == 2
    printed = capsys.readouterr()
    assert "ailed: " not in printed.out and printed.err.count("\n") == 1
    return printed.err


def test_grid_without_data_is_one_line_and_writes_nothing(tmp_path, capsys):
    error = rejected_grid(capsys, tmp_path / "nowhere", tmp_path / "out")
    assert error.count(f"{tmp_path / 'nowhere'} does not exist") == 1 and "--data" in error
    line = ["base2new", "--datasets", "dtd", "eurosat", "--data", str(tmp_path / "nowhere")]
    assert protocols.main("reproduce", [*line, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "nowhere/dtd" in error and "nowhere/eurosat" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_grid_checks_settings_of_all_runs_first(collections, tmp_path, capsys):
    wrong = ["--adapt", "TRAINER.COOP.N_CTX", "99", "--boost", "TRAINER.CASPL.DEPTH_TEXT", "99"]
    error = rejected_grid(capsys, collections / "one", tmp_path / "out", *wrong)
    assert "TRAINER.COOP.N_CTX: 99" in error and "TRAINER.CASPL.DEPTH_TEXT: 99" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", ["two", "again"])
def test_grid_rejects_other_images_before_its_first_run(collections, output, capsys, other):
    before = files(output)
    error = rejected_grid(capsys, collections / other, output)
    assert ("square" if other == "two" else "other images") in error and files(output) == before


def test_grid_rejects_other_settings_before_its_first_run(collections, output, capsys):
    before = files(output)
    assert "OPTIM.LR: " in rejected_grid(capsys, collections / "one", output, "--adapt", "OPTIM.LR", "0.5")
    assert files(output) == before


def test_finished_grid_is_read_from_a_read_only_disk(collections, output, monkeypatch, capsys):
    assert grid(collections / "one", output, "--seeds", "1") == 0  # makes the runs of a grid that a single one lacks
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(tempfile, "mkstemp", no_space)
    monkeypatch.setattr(tempfile, "mkdtemp", no_space)
    capsys.readouterr()
    assert grid(collections / "one", output, "--seeds", "1", "--cluster", "local") == 0
    assert "| ImageFolder | ZeroshotCLIP |" in capsys.readouterr().out


def no_space(*args, **options):
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_grid_on_a_read_only_disk_is_one_line(collections, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    error = rejected_grid(capsys, collections / "one", tmp_path / "out")
    assert error.startswith(f"error: --output: {tmp_path / 'out'} cannot be written to") and "Give another" in error
    assert not (tmp_path / "out").exists()


def test_full_disk_in_a_grid_is_named(collections, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(atomic.tempfile, "mkstemp", no_space)
    assert grid(collections / "one", tmp_path / "out") == 2
    printed = capsys.readouterr()
    failed = [line for line in printed.out.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 4  # phase 1, zero-shot CLIP and two seeds; runs that need phase 1 are left out
    assert all(
        "cannot write" in line and str(tmp_path / "out") in line and "free some space" in line for line in failed
    )
    assert printed.err.splitlines()[-1].startswith("error: 4 runs failed")
    monkeypatch.undo()
    assert grid(collections / "one", tmp_path / "out") == 0


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.mark.slow
def test_killed_job_fails_and_no_planted_pickle_is_loaded(collections, tmp_path):
    output, trace = tmp_path / "output", tmp_path / "trace"
    (output / "cluster").mkdir(parents=True)
    for name in ["1_0_result.pkl", *(f"{os.getpid() + step}_0_result.pkl" for step in range(400))]:
        (output / "cluster" / name).write_bytes(pickle.dumps(("success", Bomb(trace))))
    line = ["few_shot", "--datasets", "image_folder", "--hosts", "coop", "--seeds", "1", "--shots-list", "1"]
    line += ["--cluster", "local", "--jobs", "1", "--data", str(collections / "one"), "--output", str(output), *SMALL]
    driver = subprocess.Popen(
        [sys.executable, "-m", "trainers", "reproduce", *line],
        cwd=ROOT,
        env=ALONE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        job = job_of(driver.pid)
        os.kill(job, signal.SIGKILL)
        printed, _ = driver.communicate(timeout=240)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    assert driver.returncode == 2 and "failed: few_shot image_folder phase 1" in printed
    assert "Finished: few_shot image_folder phase 1" not in printed and not list(output.rglob("boosting.safetensors"))
    assert not trace.exists() and "Traceback" not in printed


def job_of(pid, seconds=120):
    """Return the process that does the first job of a driver, once it has begun; not the one that watches over it."""
    for _ in range(seconds * 10):
        time.sleep(0.1)
        found = [child for child in descendants(pid) if "submitit.core._submit" in command_of(child)]
        if found:
            return found[-1]
    raise TimeoutError("no job was started")


def descendants(pid):
    """Return a process's children and theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found = [pid]
    for child in sorted(parents):
        if parents[child] in found:
            found.append(child)
    return found[1:]


def command_of(pid):
    """Return the command of a process."""
    return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout


def test_edited_template_file_is_measured_again(collections, tmp_path):
    texts = tmp_path / "texts.json"
    options = [*SMALL[:-3], "DATASET.TEMPLATE", str(texts)]
    made = Setting("image_folder", collections / "one", tmp_path / "out", options, "few_shot")
    path = made.folder("ZeroshotCLIP") / "result.json"

    def measure(content):
        texts.write_text(json.dumps(content))
        result = runs.untrained(made, "ZeroshotCLIP")
        return path.stat().st_mtime_ns, result.template

    first, described = measure(["a drawing of a {}."])
    assert "texts.json" in described and "sha256" in described
    assert measure(["a drawing of a {}."]) == (first, described)
    again, other = measure(["a photo of a {}."])
    assert again > first and other != described


def test_edited_template_file_is_another_phase_1(collections, output, tmp_path, capsys):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(["a drawing of a {}."]))
    line = ["image_folder", "--data", str(collections / "one"), "--output", str(tmp_path / "out"), *SMALL[:-3]]
    template = ["DATASET.TEMPLATE", str(texts)]
    assert boost.main([*line, *template]) == 0
    assert boost.main([*line, *template]) == 0
    (tmp_path / "moved").mkdir()
    moved = ["DATASET.TEMPLATE", str(shutil.copy(texts, tmp_path / "moved"))]
    assert boost.main([*line, *moved]) == 0
    texts.write_text(json.dumps(["a photo of a {}."]))
    assert boost.main([*line, *template]) == 2
    assert "texts.json" in capsys.readouterr().err


def nested(leaves):
    """Return {key: value} with dots as a nested dictionary."""
    found = {}
    for key, value in leaves.items():
        *nodes, last = key.split(".")
        node = found
        for name in nodes:
            node = node.setdefault(name, {})
        node[last] = value
    return found


def without_key(folder, key):
    """Drop a key from every record below a folder."""
    for path in folder.rglob("result.json"):
        content = json.loads(path.read_text())
        kept = dict(config.leaves(content["configuration"]))
        kept.pop(key, None)
        path.write_text(json.dumps(content | {"configuration": nested(kept)}))
    for path in folder.rglob("config.yaml"):
        kept = dict(config.leaves(yaml.safe_load(path.read_text())))
        kept.pop(key, None)
        path.write_text(yaml.safe_dump(nested(kept)))
    for path in folder.rglob("identity.json"):
        content = json.loads(path.read_text())
        content["settings"].pop(key, None)
        path.write_text(json.dumps(content | {"digest": identity.digest(content)}))


def test_run_without_a_later_key_is_not_taken_for_one_with_it(collections, output, capsys, caplog):
    key = "TRAINER.CASPL.JOINT"
    without_key(output, key)
    assert few_shot(collections / "one", output, "--adapt", key, "False") == 0
    assert "CasPL_CoOp is finished" in caplog.text
    capsys.readouterr()
    assert few_shot(collections / "one", output, "--adapt", key, "True") == 2
    assert f"{key}: False -> True" in capsys.readouterr().err


def test_resume_and_evaluation_without_a_later_key(collections, output, capsys):
    key = "TRAINER.CASPL.JOINT"
    without_key(output, key)
    (folder,) = output.glob("few_shot/*/CasPL_CoOp/shots_*/seed_*")
    evaluation = ["--eval-only", "--model-dir", str(folder), "DATASET.ROOT", str(collections / "one")]
    assert train.main(evaluation) == 0
    capsys.readouterr()
    assert train.main([*evaluation, key, "True"]) == 2
    assert f"{key}: False -> True" in capsys.readouterr().err
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    again = folder.with_name("again.yaml")
    again.write_text(yaml.safe_dump(kept))
    resumed = ["--config-file", str(again), "--resume", str(folder), "--output-dir", str(output / "new"), "--root"]
    resumed += [str(collections / "one"), "--trainer", "CasPL_CoOp", key, "True"]
    assert train.main(resumed) == 2
    assert f"{key}: False -> True" in capsys.readouterr().err
    (folder / "identity.json").unlink()  # as in version 0.1.0
    assert train.main(resumed) == 2
    assert f"{key}: False -> True" in capsys.readouterr().err
