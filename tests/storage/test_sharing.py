"""Concurrent runs share data, draws and the boosting prompt, with the same results as separate runs."""

import json
import logging
import os
import re
import subprocess
import sys
import time

import protocol
import pytest
import torch
from conftest import ROOT
from test_kill import assert_same

from datasets.errors import DatasetError
from datasets.kept_files import KeptFiles
from datasets.text_files import read_json
from trainers.storage.atomic import replacing
from trainers.storage.locks import locked

RUN = "base2new/toy/CasPL_PromptSRC/shots_2/seed_{}"


@pytest.fixture(scope="module")
def shared():
    """Start runs concurrently and one by one; return their folder and their stderr."""
    root, codes, stderr = protocol.play()
    assert codes["share"] == [0] * 5, stderr[-3000:]
    return root / "share", stderr


@pytest.mark.parametrize("seed", [1, 2])
def test_concurrent_runs_match_separate_runs(shared, seed):
    name = f"{RUN.format(seed)}/VLPromptLearner/model.pth.tar-3"
    assert_same(*(torch.load(shared[0] / place / name, weights_only=True) for place in ("shared", "alone")))
    ours, theirs = (
        json.loads((shared[0] / place / RUN.format(seed) / "result.json").read_text()) for place in ("shared", "alone")
    )
    for key in ("base", "new", "hm", "boosting", "seed"):
        assert ours[key] == theirs[key]


def test_concurrent_runs_train_once(shared):
    for folder, trainings in (("boosting/toy", 1), (RUN.format(1), 1), (RUN.format(2), 1)):
        log = (shared[0] / "shared" / folder / "log.txt").read_text()
        assert log.count("epoch [1/3]") == trainings, folder


def test_lock_wait_logs_holder(shared):
    root, stderr = shared
    place = re.escape(str(root / "shared" / "boosting" / "toy"))
    assert len(re.findall(rf"Waiting for process \d+ on .+, which works on {place}\n", stderr)) == 2
    assert all(path.name.endswith(".lock") for path in (root / "shared").rglob(".*"))


def test_lock_is_released_after_kill(tmp_path, caplog):
    script = (
        "import runpy, sys, time; locked = runpy.run_path(sys.argv[1])['locked']\n"
        "with locked(sys.argv[2]): print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(ROOT / "trainers" / "storage" / "locks.py"), str(tmp_path / "run")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    holder.kill()
    holder.wait()
    start = time.monotonic()
    with locked(tmp_path / "run"), locked(tmp_path / "run"):  # the lock is reentrant
        assert (tmp_path / ".run.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert time.monotonic() - start < 5 and [path.name for path in tmp_path.iterdir()] == [".run.lock"]


def test_missing_lock_support_warns(tmp_path, monkeypatch, caplog):
    def no_locks(*args, **kwargs):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("trainers.storage.locks.FileLock.acquire", no_locks)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "run"):
        pass
    assert "cannot be locked" in caplog.text and "Operation not supported" in caplog.text


def test_unwritable_folder_raises_with_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*file .*: give another folder"):
        with locked(tmp_path / "file" / "run"):
            pass


def test_concurrent_writers_leave_complete_files(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as ours:
        ours.write_text("ours")
        with replacing(path) as theirs:
            theirs.write_text("theirs")
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours" and [p.name for p in tmp_path.iterdir()] == ["file"]
    kept = KeptFiles(tmp_path, tmp_path, "Toy")
    assert read_json(kept.write("draw.json", [1])) == [1]
    (tmp_path / "draw.json").write_text("[1")
    with pytest.raises(DatasetError, match=r"draw\.json: not JSON .* Download it again or delete it"):
        read_json(tmp_path / "draw.json")
