"""Odd command lines, and odd files on them: one line names the key or the file, exit code 2, and nothing is written."""

import dataclasses

import protocol
import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from test_bad_files import FEW, damaged, tensors

from trainers.cli import train
from trainers.cli.program import guarded
from trainers.config import FIELDS
from trainers.engine import PromptGroup
from trainers.method.prompt_file import read_info, save_boosting


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs and a boosting prompt."""
    root = tmp_path_factory.mktemp("values")
    protocol.prepare(root)
    train.run(toy.command(root, "CasPL", root / "boost"))
    return root


@pytest.mark.parametrize(
    ("trainer", "key", "value"),
    [
        ("CoOp", "DATALOADER.NUM_WORKERS", -3),
        ("CoOp", "DATALOADER.TRAIN_X.BATCH_SIZE", 0),
        ("CoOp", "DATALOADER.TEST.BATCH_SIZE", -1),
        ("CoOp", "OPTIM.LR", "nan"),
        ("CoOp", "OPTIM.LR", "-1.0"),
        ("CoOp", "OPTIM.MAX_EPOCH", 0),
        ("CoOp", "OPTIM.MOMENTUM", "-0.1"),
        ("CoOp", "SEED", 2**40),
        ("CoOp", "OUTPUT_DIR", __file__),
        ("CoOp", "DATASET.NUM_SHOTS", -2),
        ("CoOp", "TEST.FINAL_MODEL", "best"),
        ("CoOp", "TEST.SPLIT", "train"),
        ("CoOp", "OPTIM.WARMUP_TYPE", "cosine"),
        ("CoOp", "INPUT.TRANSFORMS", "(3,)"),
        ("CoOp", "INPUT.SIZE", "()"),
        ("CoOp", "INPUT.SIZE", "(32, 32)"),
        ("CoOp", "INPUT.PIXEL_MEAN", "['a', 'b', 'c']"),
        ("CoOp", "INPUT.PIXEL_MEAN", "[0.5]"),
        ("CoOp", "INPUT.PIXEL_STD", "[0.0, 0.1, 0.1]"),
        ("CoOp", "MODEL.BACKBONE.NAME", "x" * 700),
        ("CoOp", "TRAINER.COOP.N_CTX", 0),
        ("CoCoOp", "TRAINER.COCOOP.N_CTX", -2),
        ("MaPLe", "TRAINER.MAPLE.N_CTX", 0),
        ("PromptSRC", "TRAINER.PROMPTSRC.N_CTX_TEXT", 0),
        ("PromptSRC", "TRAINER.PROMPTSRC.N_CTX_VISION", -1),
        ("CasPL", "TRAINER.CASPL.TEMPERATURE", 0.0),
    ],
)
def test_value_out_of_range_is_named(root, tmp_path, capsys, trainer, key, value):
    line = [*toy.command(root, trainer, tmp_path / "run"), key, str(value)]
    assert guarded(lambda: train.run(line)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {key}: ") and "; expected " in error and "\n" not in error
    assert not (tmp_path / "run").exists()


def test_arbitrary_boosting_file_on_command_line_is_one_error(root, tmp_path, capsys):
    path = tmp_path / "b.safetensors"
    good = root / "boost" / "boosting.safetensors"
    with safe_open(good, "pt") as opened:
        metadata, whole = opened.metadata(), {key: opened.get_tensor(key) for key in ("text", "vision")}
    line = toy.command(root, "CasPL_CoOp", tmp_path / "run", "--no-train", TRAINER__CASPL__CHECKPOINT=path)

    def written(content):
        save_file(content, path, metadata=metadata)
        return path.read_bytes()

    others = st.dictionaries(st.sampled_from(["text", "vision", "more"]), tensors(), min_size=1)

    @settings(FEW, max_examples=25)
    @given(damaged(good.read_bytes()[:-1]) | others.map(lambda other: written(whole | other)))
    def check(data):
        path.write_bytes(data)
        capsys.readouterr()
        code = guarded(lambda: train.run(line))
        error = capsys.readouterr().err.strip()
        assert code == 0 or (code == 2 and str(path) in error and "Traceback" not in error), error
        assert path.read_bytes() == data

    check()


def test_boosting_file_of_another_backbone_is_rejected(root, tmp_path, capsys):
    path = tmp_path / "b.safetensors"
    info = dataclasses.replace(read_info(root / "boost" / "boosting.safetensors"), student_weights="ab")
    save_boosting(path, PromptGroup(torch.zeros(3, 3, 64), torch.zeros(2, 2, 64)), info)
    line = toy.command(root, "CasPL_CoOp", tmp_path / "run", TRAINER__CASPL__CHECKPOINT=path)
    assert guarded(lambda: train.run(line)) == 2
    assert f"boosting prompt {path} does not fit this backbone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["MODEL.INIT_WEIGHTS", "TRAINER.CASPL.IMAGES", "OUTPUT_DIR"])
def test_name_that_no_file_system_accepts_is_out_of_range(key):
    field = FIELDS[key]
    for value, fine in (("a/" + "x" * 255, True), ("x" * 256 + "/a", False), ("ä" * 128, False)):
        assert (field.problem([value] if field.many else value) == "") == fine
    assert "255 bytes" in field.expected() or field.many
