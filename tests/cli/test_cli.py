"""What a user types: mistakes get one clear line, a non-zero exit, and write nothing."""

import json
import re

import pytest
import torch
import toy
import yaml
from conftest import ROOT
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from yacs.config import CfgNode

from trainers import config, extend_cfg, hosts
from trainers.cli import train
from trainers.cli.program import guarded
from trainers.method import prompt_file

CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Toy data, a toy CLIP and a boosting prompt that does not fit it."""
    root = tmp_path_factory.mktemp("cli")
    toy.save_clip(root / "student.pt")
    group = prompt_file.PromptGroup(torch.zeros(1, 2, 128), torch.zeros(1, 2, 64))
    prompt_file.save_boosting(root / "foreign.safetensors", group, prompt_file.BoostingInfo(student="ViT-B/16"))
    torch.save({"no": "clip"}, root / "not_a_clip.pt")
    (root / "broken.yaml").write_text("INPUT: [")
    (root / "unknown.yaml").write_text("TRAINER:\n  COOP:\n    N_CONTEXT: 4\n")
    return root


def fails(capsys, arguments):
    """The line that `train.py` ends with, given these arguments."""
    assert guarded(lambda: train.run([str(a) for a in arguments])) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[0].startswith("error: ")
    return "\n".join(error)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"DATASET.NAME": "Toys"}, "unknown dataset 'Toys': did you mean Toy"),
        ({"TRAINER.NAME": "CasPLCoOp"}, "unknown trainer 'CasPLCoOp': did you mean CasPL"),
        ({"TRAINER.COOP.NCTX": "4"}, "unknown key 'TRAINER.COOP.NCTX': did you mean TRAINER.COOP.N_CTX"),
        ({"OPTIM.LR": "fast"}, r"OPTIM.LR: 'fast' \(the command line\); expected a number above 0"),
        ({"TRAINER.COOP.PREC": "fp8"}, "TRAINER.COOP.PREC: 'fp8'; expected one of 'fp32', 'fp16'"),
        (
            {"TRAINER.CASPL.TEXT_ORDER": "first"},
            "TRAINER.CASPL.TEXT_ORDER: 'first'; expected one of 'boosting_first'",
        ),
        ({"TRAINER.CASPL.TEMPERATURE": "0"}, "TRAINER.CASPL.TEMPERATURE: 0.0; expected a number 0.001 or more"),
        ({"TRAINER.CASPL.DEPTH_TEXT": "-1"}, "TRAINER.CASPL.DEPTH_TEXT: -1; expected a whole number 0 or more"),
        ({"TRAINER.CASPL.CHECKPOINT": ""}, "TRAINER.CASPL.CHECKPOINT: empty; expected"),
        ({"TRAINER.CASPL.CHECKPOINT": "ROOT/nowhere"}, "nowhere: no such file or folder. Train one"),
        ({"TRAINER.CASPL.CHECKPOINT": "ROOT/student.pt"}, "student.pt is not a safetensors file"),
        (
            {"TRAINER.CASPL.CHECKPOINT": "ROOT/foreign.safetensors"},
            "text width 128 .student ViT-B/16.* backbone has 64",
        ),
        (
            {"MODEL.BACKBONE.NAME": "ViT-B16"},
            "'ViT-B16': neither a file nor a known name; expected one of .*ViT-B/16",
        ),
        ({"MODEL.BACKBONE.NAME": "ROOT/not_a_clip.pt"}, "not_a_clip.pt: a dict; expected a state dict of tensors"),
        ({"INPUT.SIZE": "(224, 224)"}, r"INPUT.SIZE: \(224, 224\); expected \(16, 16\) for the backbone"),
        ({"TRAINER.COOP.N_CTX": "74"}, "class name 'red_fox': too long, .* expected at most 77"),
        ({"TRAINER.COOP.CLASS_TOKEN_POSITION": "back"}, "CLASS_TOKEN_POSITION: 'back'; expected one of 'end'"),
        ({"DATASET.SUBSAMPLE_CLASSES": "old"}, "SUBSAMPLE_CLASSES: 'old'; expected"),
        ({"DATASET.NAME": "OxfordPets"}, r"(?s)oxford_pets.* does not exist.*split_zhou_OxfordPets.json"),
    ],
)
def test_configuration_errors_are_one_line(root, tmp_path, capsys, more, message):
    trainer = "CasPL_CoOp" if any("CASPL" in key for key in more) else "CoOp"
    values = ({"TRAINER.CASPL.CHECKPOINT": "ROOT/foreign.safetensors"} if "CasPL" in trainer else {}) | more
    values = {key: value.replace("ROOT", str(root)) for key, value in values.items()}
    if any(key.startswith(("TRAINER.CASPL.TEMP", "TRAINER.CASPL.DEPTH")) for key in more):
        trainer = "CasPL"
    line = fails(capsys, [*toy.command(root, trainer, tmp_path / "run"), *[i for pair in values.items() for i in pair]])
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OPTIM.LR"], "OPTIM.LR: no value on the command line; expected pairs KEY VALUE"),
        (["--config-file", "ROOT/brok.yaml"], "no configuration file .*brok.yaml: did you mean .*broken.yaml"),
        (["--config-file", "ROOT/broken.yaml"], "broken.yaml: not YAML"),
        (
            ["--config-file", "ROOT/unknown.yaml"],
            "unknown.yaml: unknown key 'TRAINER.COOP.N_CONTEXT': did you mean",
        ),
    ],
)
def test_argument_errors_are_one_line(root, capsys, arguments, message):
    line = fails(capsys, [argument.replace("ROOT", str(root)) for argument in arguments])
    assert re.search(message, line), line


def test_seed_must_be_a_number(capsys):
    with pytest.raises(SystemExit) as caught:
        train.parse(["--seed", "one"])
    assert caught.value.code == 2 and "'one' is not a whole number" in capsys.readouterr().err


def test_evaluation_of_untrained_folder_is_rejected(root, tmp_path, capsys):
    line = fails(capsys, toy.command(root, "CoOp", tmp_path, "--eval-only", "--model-dir", tmp_path / "none"))
    assert f"--model-dir: {tmp_path / 'none'} does not exist; expected the folder of a run" in line
    (tmp_path / "file").touch()
    line = fails(capsys, toy.command(root, "CoOp", tmp_path, "--eval-only", "--model-dir", tmp_path / "file"))
    assert f"--model-dir: {tmp_path / 'file'} is a file; expected the folder of a run" in line
    line = fails(capsys, toy.command(root, "CoOp", tmp_path, "--eval-only"))
    assert "--model-dir: not given; expected the folder of the run to evaluate" in line


def test_folder_of_another_run_is_rejected(root, tmp_path, capsys):
    train.run(toy.command(root, "CoOp", tmp_path / "run"))
    before = (tmp_path / "run" / "config.yaml").read_text()
    line = fails(capsys, toy.command(root, "CoOp", tmp_path / "run", OPTIM__LR=0.5))
    assert "holds a run with other settings (OPTIM.LR: 0.01 -> 0.5)" in line
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_run_keeps_log_and_configuration(root, tmp_path):
    train.run(toy.command(root, "CoOp", tmp_path / "run"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "on the CPU (no GPU)" in log or torch.cuda.is_available()
    assert "accuracy" in log and "Learning 256 parameters in prompt_learner (ctx)" in log
    kept = get_cfg_default()
    hosts.extend_cfg(kept)
    extend_cfg(kept)
    config.merge_file(kept, tmp_path / "run" / "config.yaml")
    assert kept.TRAINER.COOP.N_CTX == 4 and kept.OUTPUT_DIR == str(tmp_path / "run")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/**/*.yaml")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_configuration_file_loads(path):
    cfg = get_cfg_default()
    hosts.extend_cfg(cfg)
    extend_cfg(cfg)
    config.merge_file(cfg, path)
    if path.parent.parent.name == "trainers":
        assert path.parent.name in TRAINER_REGISTRY.registered_names()
        assert cfg.MODEL.BACKBONE.NAME and cfg.INPUT.TRANSFORMS
    if path.parent.name == "datasets":
        assert cfg.DATASET.NAME in DATASET_REGISTRY.registered_names()


def test_configuration_files_are_distinct():
    contents = {}
    for path in CONFIGS.glob("*/**/*.yaml"):
        contents.setdefault(json.dumps(yaml.safe_load(path.read_text()), sort_keys=True), []).append(path)
    assert [paths for paths in contents.values() if len(paths) > 1] == []


def test_base_file_is_merged_first(tmp_path):
    (tmp_path / "base.yaml").write_text("A: 1\nB: 2.0\n")
    (tmp_path / "top.yaml").write_text("_BASE_: base.yaml\nB: 3\n")
    cfg = CfgNode({"A": 0, "B": 0.0})
    config.merge_file(cfg, tmp_path / "top.yaml")
    assert (cfg.A, cfg.B) == (1, 3.0)


def test_extend_cfg_twice_is_a_no_op():
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.TRAINER.CASPL.N_CTX_TEXT = 5
    extend_cfg(cfg)
    assert cfg.TRAINER.CASPL.N_CTX_TEXT == 5 and cfg.DATASET.SUBSAMPLE_CLASSES == "all"
