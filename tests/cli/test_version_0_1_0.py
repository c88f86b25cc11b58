"""Files that version 0.1.0 wrote are read, evaluated and resumed with the figures that it reported.

Only commands that users have run: train.py, the protocol scripts, results.py and convert.py. See
tests/golden/version_0_1_0/README.md for the files.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "tests" / "golden" / "version_0_1_0"
RECORDED = json.loads((FILES / "figures.json").read_text())
LEARNERS = {"CasPL": "CasPL", "CasPL_CoOp": "prompt_learner", "PromptSRC": "VLPromptLearner"}
PROTOCOLS = ("base2new", "few_shot", "cross_dataset")


@pytest.fixture
def folder(tmp_path):
    """A writable copy of the files, in which every command runs."""
    return Path(shutil.copytree(FILES, tmp_path / "files"))


def run(folder, *command):
    """Run a command in `folder`, on one CPU core as recorded; return what it prints."""
    program = ["bash"] if command[0].endswith(".sh") else [sys.executable]
    line = [*program, *(part.replace("CHECKOUT", str(ROOT)) for part in command)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def assert_accuracy(printed, expected):
    """Compare the last accuracy in `printed` with the recorded counts, to the printed number of decimals."""
    found = re.findall(r"accuracy\W+(\d+\.(\d+))", printed)
    assert found, printed[-2000:]
    value, decimals = found[-1]
    assert value == f"{100 * expected['correct'] / expected['total']:.{len(decimals)}f}"


def assert_table(printed, expected):
    """Find every recorded row in the table that a protocol prints."""
    for name, figures in expected.items():
        rows = [line for line in printed.splitlines() if re.match(rf"\W*{re.escape(name)}\W+\d", line)]
        assert rows, f"no row {name!r} in {printed[-2000:]}"
        assert set(figures) <= set(re.findall(r"\d+\.\d\d", rows[-1])), (name, figures, rows[-1])


def learned(path):
    """Return the parameters in a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def assert_same_tensors(ours, theirs):
    """Compare parameters, up to what another version of PyTorch may round differently."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("trainer", RECORDED["runs"])
def test_finished_run_evaluates_to_its_figure(folder, trainer):
    printed = run(folder, "CHECKOUT/train.py", "--eval-only", "--model-dir", f"runs/{trainer}")
    assert_accuracy(printed, RECORDED["runs"][trainer]["all"])


@pytest.mark.parametrize(("trainer", "classes"), [("CoOp", "base"), ("CasPL_CoOp", "new")])
def test_finished_run_evaluates_on_half_of_the_classes(folder, trainer, classes):
    evaluation = ["--eval-only", "--model-dir", f"runs/{trainer}", "DATASET.SUBSAMPLE_CLASSES", classes]
    assert_accuracy(run(folder, "CHECKOUT/train.py", *evaluation), RECORDED["runs"][trainer][classes])


def resume(folder, trainer):
    """Give the command of a killed run again, and compare with the run that was not killed."""
    printed = run(folder, *shlex.split(RECORDED["killed"][trainer]["command"]))
    assert_accuracy(printed, RECORDED["runs"][trainer]["all"])
    resumed, whole = folder / "killed" / trainer, FILES / "runs" / trainer
    checkpoints = resumed / LEARNERS[trainer]
    assert not (checkpoints / "model.pth.tar-1").exists(), "epoch 1 was trained again"
    assert (checkpoints / "model.pth.tar-3").exists() and not (resumed / "progress.pt").exists()
    file = f"{LEARNERS[trainer]}/model.pth.tar-4"
    assert_same_tensors(learned(resumed / file), learned(whole / file))
    if trainer == "CasPL":
        assert_same_tensors(*(load_file(path / "boosting.safetensors") for path in (resumed, whole)))


@pytest.mark.parametrize("trainer", RECORDED["killed"])
def test_killed_run_resumes_from_progress(folder, trainer):
    shutil.rmtree(folder / "killed" / trainer / LEARNERS[trainer])
    resume(folder, trainer)


def test_killed_run_resumes_from_its_last_checkpoint(folder):
    (folder / "killed" / "PromptSRC" / "progress.pt").unlink()
    resume(folder, "PromptSRC")


def test_boosting_prompt_trains_a_host_to_its_figure(folder):
    command = RECORDED["runs"]["CasPL_CoOp"]["command"].replace("--output-dir runs/", "--output-dir again/")
    assert_accuracy(run(folder, *shlex.split(command)), RECORDED["runs"]["CasPL_CoOp"]["all"])


def test_boosting_prompt_is_inspected(folder):
    printed = run(folder, "CHECKOUT/scripts/caspl/convert.py", "inspect", "runs/CasPL")
    for known in ("shapes-student", "shapes-teacher", "ImageFolder", "checkered_circle", "0.1.0"):
        assert known in printed


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_finished_protocol_is_read_and_not_trained_again(folder, protocol):
    checkpoints = {path: path.stat().st_mtime_ns for path in (folder / "output").rglob("model.pth.tar-*")}
    recorded = RECORDED["protocols"][protocol]
    assert_table(run(folder, *shlex.split(recorded["command"])), recorded["table"])
    assert checkpoints == {path: path.stat().st_mtime_ns for path in (folder / "output").rglob("model.pth.tar-*")}


def test_protocol_without_its_result_is_evaluated_again(folder):
    recorded = RECORDED["protocols"]["base2new"]
    (result,) = (folder / "output/base2new/image_folder/CasPL_CoOp").rglob("result.json")
    result.unlink()
    assert_table(run(folder, *shlex.split(recorded["command"])), recorded["table"])
    assert result.is_file()


def test_results_reads_every_result(folder):
    printed = run(folder, "CHECKOUT/scripts/results.py", "output", "--format", "csv").splitlines()
    start = next(number for number, line in enumerate(printed) if line.startswith("protocol,"))
    rows = csv.DictReader(printed[start:])
    found = {
        (row["protocol"], row["trainer"], row["dataset"], row["metric"], float(row["mean"]))
        for row in rows
        if row["mean"]
    }
    expected = set()
    for path in (FILES / "output").rglob("result.json"):
        result = json.loads(path.read_text())
        for metric in ("base", "new", "hm", "accuracy"):
            if metric in result:
                expected.add((result["protocol"], result["trainer"], "ImageFolder", metric, result[metric]))
        for accuracy in result.get("targets", {}).values():
            expected.add((result["protocol"], result["trainer"], "ImageCSV", "accuracy", accuracy))
    assert len(expected) == 3 * 3 + 3 + 2 * 3
    assert expected <= found, sorted(expected - found)
