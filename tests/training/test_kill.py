"""A run that is killed repeatedly at random points ends with the same bits and files as an undisturbed one."""

import json
import signal

import protocol
import pytest
import torch
import toy

from trainers.cli import train
from trainers.cli.program import guarded

FINAL = [
    "boosting/toy/CasPL/model.pth.tar-3",
    "base2new/toy/CasPL_PromptSRC/shots_2/seed_1/VLPromptLearner/model.pth.tar-3",
]


@pytest.fixture(scope="module")
def killed():
    """A folder with a run that was left alone and one that was killed; how many times."""
    root, codes, _ = protocol.play()
    codes = codes["kill"]
    assert codes[-1] == 0 and set(codes[:-1]) == {-signal.SIGKILL}, codes
    return root / "kill", len(codes) - 1


def leaves(value, path=""):
    """Everything in nested containers, by its place."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {place: leaf for key, item in pairs for place, leaf in leaves(item, f"{path}/{key}").items()}
    return {path: value}


def assert_same(ours, theirs):
    """Bit-identical contents of two checkpoints."""
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for place, value in ours.items():
        other = theirs[place]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert same, f"{place}: {value} {other}"


def test_run_was_killed_several_times(killed):
    assert killed[1] >= 4


@pytest.mark.parametrize("file", FINAL)
def test_killed_run_checkpoint_is_bit_identical(killed, file):
    ours, theirs = (torch.load(killed[0] / run / file, weights_only=True) for run in ("killed", "undisturbed"))
    assert {"state_dict", "optimizer", "scheduler", "random_state"} <= ours.keys()
    assert ("VLPromptLearner" in file) == any(key.endswith("_sum") for key in ours["state_dict"])
    assert_same(ours, theirs)


def test_killed_run_prompt_draw_and_results_are_identical(killed):
    root = killed[0]
    ours, theirs = (
        (root / run / "boosting/toy/boosting.safetensors").read_bytes() for run in ("killed", "undisturbed")
    )
    assert ours == theirs
    results = [
        root / run / "base2new/toy/CasPL_PromptSRC/shots_2/seed_1/result.json" for run in ("killed", "undisturbed")
    ]
    ours, theirs = (json.loads(path.read_text()) for path in results)
    differing = {place for place, value in leaves(ours).items() if value != leaves(theirs)[place]}
    assert all("seconds" in place or "killed" in str(leaves(ours)[place]) for place in differing), differing


def test_killed_run_leaves_no_temporary_files(killed):
    names = [
        sorted(str(path.relative_to(killed[0] / run)) for path in (killed[0] / run).rglob("*"))
        for run in ("killed", "undisturbed")
    ]
    assert names[0] == names[1]
    assert not [name for name in names[0] if "progress" in name or ".part" in name or ".tmp" in name]


def test_sigterm_and_ctrl_c_stop_with_resume_hint():
    root, codes, said = protocol.play()
    assert codes["stop"] == [143, 130]
    for name in ("SIGTERM", "SIGINT"):
        assert f"stopped by {name}: the same command resumes after the last whole epoch" in said
        run = root / "stop" / name
        assert "Stopped: the same command resumes" in (run / "log.txt").read_text()
        assert sorted(path.name for path in run.iterdir() if path.name != "tensorboard") == [
            *("config.yaml", "identity.json", "ledger.json", "log.txt", "metrics.csv", "progress.pt")
        ]
    assert "Traceback" not in said
    assert {path.name for path in (root / "stop").glob(".*")} == {".SIGTERM.lock", ".SIGINT.lock"}


def test_unfinished_run_is_not_evaluated(killed, tmp_path, monkeypatch, capsys):
    line = toy.command(killed[0], "CoOp", tmp_path / "run", OPTIM__MAX_EPOCH=2)
    with monkeypatch.context() as patch:
        patch.setattr("trainers.training.trainer.PromptTrainer.before_epoch", stop_at(1))
        assert guarded(lambda: train.run(line)) == 130
    capsys.readouterr()
    evaluation = ["--eval-only", "--model-dir", str(tmp_path / "run")]
    assert guarded(lambda: train.run(evaluation)) == 2
    assert "is not finished; expected a finished run. Repeat its command to resume it" in capsys.readouterr().err
    train.run(line)
    assert train.main(evaluation) == 0


def stop_at(epoch):
    """A `before_epoch` during which Ctrl-C is pressed."""

    def before_epoch(trainer):
        if trainer.epoch == epoch:
            raise KeyboardInterrupt

    return before_epoch


@pytest.mark.parametrize("damage", [b"", b"nothing like it", None])
def test_damaged_progress_is_named_and_unchanged(killed, tmp_path, monkeypatch, capsys, damage):
    line = toy.command(killed[0], "CoOp", tmp_path / "run", OPTIM__MAX_EPOCH=2)
    with monkeypatch.context() as patch:
        patch.setattr("trainers.training.trainer.PromptTrainer.before_epoch", stop_at(1))
        guarded(lambda: train.run(line))
    path = tmp_path / "run" / "progress.pt"
    damaged = path.read_bytes()[:1000] if damage is None else damage
    path.write_bytes(damaged)
    capsys.readouterr()
    assert guarded(lambda: train.run(line)) == 2
    error = capsys.readouterr().err
    assert str(path) in error and "Remove" in error and "Traceback" not in error
    assert path.read_bytes() == damaged
    path.unlink()
    assert train.main(line) == 0
