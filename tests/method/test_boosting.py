"""Phase 1: same bytes, identity, prompts of one tower, and what is rejected."""

import json

import pytest
import torch
import toy

from trainers.backbones import load_clip
from trainers.cli import train
from trainers.cli.program import guarded
from trainers.method import losses, prompt_file
from trainers.method.boosting import build_student
from trainers.method.prompt_file import FILE_NAME


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Toy pictures and CLIPs."""
    root = tmp_path_factory.mktemp("boosting")
    toy.draw(root / "toy")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    return root


def boost(root, folder, **more):
    """Run phase 1 and return its prompt file."""
    train.run(toy.command(root, "CasPL", folder, **more))
    return folder / FILE_NAME


def identity(path):
    """Return the identity that a prompt file records."""
    return prompt_file.read_info(path).identity


@pytest.fixture(scope="module")
def first(root):
    """The prompt file of a run with the default options."""
    return boost(root, root / "first")


def test_training_twice_writes_the_same_bytes(root, tmp_path, first):
    assert boost(root, tmp_path / "again").read_bytes() == first.read_bytes()


def test_identity_depends_on_settings_data_and_weights_only(root, tmp_path, first):
    same = {"TRAINER__CASPL__TEACHER__BACKBONE": tmp_path / "copy.pt", "TRAIN__PRINT_FREQ": 1}
    (tmp_path / "copy.pt").write_bytes((root / "teacher.pt").read_bytes())
    toy.save_clip(tmp_path / "other.pt", toy.TEACHER, seed=5)
    ours = identity(first)
    assert len(ours) == 64
    assert identity(boost(root, tmp_path / "same", **same)) == ours
    others = [
        {"SEED": 2},
        {"OPTIM__LR": 0.02},
        {"TRAINER__CASPL__N_CTX_TEXT": 2},
        {"TRAINER__CASPL__TEACHER__TEMPLATE": "a {}."},
        {"TRAINER__CASPL__TEACHER__BACKBONE": tmp_path / "other.pt"},
    ]
    found = {identity(boost(root, tmp_path / str(n), **more)) for n, more in enumerate(others)}
    (root / "toy" / "labels.json").write_text(json.dumps({"train_0_0.png": 1}))
    found.add(identity(boost(root, tmp_path / "data")))
    (root / "toy" / "labels.json").unlink()
    assert len(found | {ours}) == len(others) + 2


def test_files_are_the_same_prompt_by_identity_or_by_values(tmp_path):
    def save(name, value, identity):
        group = prompt_file.PromptGroup(torch.full((1, 2, 4), value), torch.zeros(1, 2, 4))
        prompt_file.save_boosting(tmp_path / name, group, prompt_file.BoostingInfo(identity=identity))
        return tmp_path / name

    first = save("first", 1.0, "a")
    assert prompt_file.same_prompt(first, save("retrained", 1.1, "a"))
    assert not prompt_file.same_prompt(first, save("other", 1.0, "b"))
    assert prompt_file.same_prompt(first, save("older", 1.0, ""))
    assert not prompt_file.same_prompt(first, save("older", 1.1, ""))


@pytest.mark.parametrize("tower", ["TEXT", "VISION"])
@pytest.mark.parametrize("key", ["DEPTH", "N_CTX"])
def test_prompt_of_one_tower_runs_in_both_phases(root, tmp_path, tower, key):
    path = boost(root, tmp_path / "boost", **{f"TRAINER__CASPL__{key}_{tower}": 0})
    group, info = prompt_file.load_boosting(path)
    assert getattr(group, tower.lower()).numel() == 0 and info.text_layers == 3
    initial = build_student(load_clip(str(root / "student.pt")), toy.NAMES, 3, 2, 3, 2).boosting
    other = "vision" if tower == "TEXT" else "text"
    assert getattr(group, other).shape == getattr(initial, other).shape
    more = {"TRAINER__CASPL__CHECKPOINT": path}
    for host in ("CoOp", "MaPLe"):
        folder = tmp_path / host
        accuracy = train.run(toy.command(root, f"CasPL_{host}", folder, **more))
        assert accuracy == train.run(["--eval-only", "--model-dir", str(folder)])


@pytest.mark.parametrize(
    "keys", [("DEPTH_TEXT", "DEPTH_VISION"), ("N_CTX_TEXT", "N_CTX_VISION"), ("DEPTH_TEXT", "N_CTX_VISION")]
)
def test_prompt_without_tokens_is_one_error_line(root, tmp_path, capsys, keys):
    line = toy.command(root, "CasPL", tmp_path / "run", **{f"TRAINER__CASPL__{key}": 0 for key in keys})
    assert guarded(lambda: train.run(line)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(f"TRAINER.CASPL.{key} 0" in error for key in keys)
    assert not (tmp_path / "run").exists()


def test_unknown_loss_is_rejected_with_the_choices(root, tmp_path, capsys):
    line = toy.command(root, "CasPL", tmp_path / "run", TRAINER__CASPL__LOSS="l3")
    assert guarded(lambda: train.run(line)) == 2
    assert "TRAINER.CASPL.LOSS" in (error := capsys.readouterr().err) and "'kl'" in error


def test_registered_loss_is_used(root, tmp_path, monkeypatch, first):
    monkeypatch.setitem(losses.LOSSES, "mse", lambda student, teacher, t: (student - teacher).pow(2).mean())
    path = boost(root, tmp_path / "run", TRAINER__CASPL__LOSS="mse")
    group, _ = prompt_file.load_boosting(path)
    assert not torch.equal(group.text, prompt_file.load_boosting(first)[0].text)
