"""Trackers, with a stand-in for their module that records what it is sent."""

import csv
import sys
import types

import pytest
import toy

from trainers.cli import train
from trainers.cli.program import guarded
from trainers.training import tracking

SECRET = "key-123"


class Recording(types.ModuleType):
    """A tracker with `init`, `log` and `finish`."""

    def __init__(self, name="trackio", failing=""):
        super().__init__(name)
        self.calls, self.failing = [], failing

    def _take(self, what, *args, **kwargs):
        self.calls.append((what, args, kwargs))
        if self.failing == what:
            raise RuntimeError(f"refused with {SECRET}")

    def init(self, **kwargs):
        """Record the start."""
        self._take("init", **kwargs)

    def log(self, figures):
        """Record figures."""
        self._take("log", figures)

    def finish(self):
        """Record the end."""
        self._take("finish")


@pytest.fixture
def root(tmp_path):
    """Folder with the toy data and CLIPs."""
    toy.draw(tmp_path / "toy")
    toy.save_clip(tmp_path / "student.pt")
    return tmp_path


def run(root, monkeypatch, failing="", name="trackio", **more):
    """Train CoOp for two epochs with a recording tracker; return it and the exit code."""
    recording = Recording(name, failing)
    monkeypatch.setitem(sys.modules, name, recording)
    line = toy.command(root, "CoOp", root / "run", OPTIM__MAX_EPOCH=2, TRAIN__TRACK=name, **more)
    return recording, guarded(lambda: train.run(line))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_each_epoch_and_the_result_are_sent(root, monkeypatch, name):
    recording, code = run(root, monkeypatch, name=name)
    assert code == 0
    (first, _, start), *logged, last = recording.calls
    assert (first, last[0]) == ("init", "finish") and start["project"] == "caspl" and start["name"].endswith("run")
    assert start["config"]["OPTIM.MAX_EPOCH"] == 2 and start["config"]["TRAINER.NAME"] == "CoOp"
    sent = [figures for _, (figures,), _ in logged]
    rows = list(csv.DictReader((root / "run/metrics.csv").open()))
    assert [figures["epoch"] for figures in sent[:2]] == [1, 2]
    assert [figures["loss"] for figures in sent[:2]] == [float(row["loss"]) for row in rows]
    assert "test/accuracy" in sent[2] and len(sent) == 3


def test_failing_tracker_does_not_end_the_training(root, monkeypatch, capsys):
    recording, code = run(root, monkeypatch, failing="log")
    assert code == 0 and [what for what, _, _ in recording.calls] == ["init", "log", "finish"]
    text = "".join(capsys.readouterr()) + (root / "run/log.txt").read_text()
    assert "nothing is tracked from here on" in text and SECRET not in text


def test_tracker_that_does_not_start_is_an_error_without_its_text(root, monkeypatch, capsys):
    _, code = run(root, monkeypatch, failing="init")
    error = capsys.readouterr().err
    assert code == 2 and "TRAIN.TRACK" in error and SECRET not in error


def test_missing_tracker_is_reported_before_anything_is_written(root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    line = toy.command(root, "CoOp", root / "run", OPTIM__MAX_EPOCH=2, TRAIN__TRACK="trackio")
    assert guarded(lambda: train.run(line)) == 2
    assert "pip install trackio" in capsys.readouterr().err and not (root / "run").exists()


def test_unknown_tracker_is_rejected(root, capsys):
    line = toy.command(root, "CoOp", root / "run", TRAIN__TRACK="os")
    assert guarded(lambda: train.run(line)) == 2
    assert "TRAIN.TRACK" in capsys.readouterr().err


def test_failed_run_ends_its_tracker(monkeypatch, tmp_path):
    recording = Recording()
    monkeypatch.setattr(tracking, "check_tracker", lambda name: recording)
    monkeypatch.setattr(tracking, "used", lambda cfg: cfg)
    cfg = types.SimpleNamespace(TRAIN={"TRACK": "trackio"}, OUTPUT_DIR=str(tmp_path))
    monkeypatch.setattr(tracking, "leaves", lambda cfg: [])
    with pytest.raises(RuntimeError, match="stopped"), tracking.tracking(cfg):
        raise RuntimeError("stopped")
    assert [what for what, _, _ in recording.calls] == ["init", "finish"]
