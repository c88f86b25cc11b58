"""Exported files compute what the classifier computes; int8; the example without torch."""

import json
import subprocess
import sys

import pytest
import torch
import toy
from conftest import ROOT
from PIL import Image

from trainers.__main__ import main as caspl
from trainers.backbones import load_clip
from trainers.cli import train
from trainers.config import ConfigError
from trainers.deploy import classifier as deploy
from trainers.deploy import export
from trainers.deploy.plain import PlainClassifier

TRAINERS = ("CasPL", "CoOp", "MaPLe", "PromptSRC", "CasPL_CoOp", "CasPL_MaPLe", "CasPL_PromptSRC")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs, and a run of every trainer."""
    root = tmp_path_factory.mktemp("export")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)
    for trainer in (*TRAINERS, "CoCoOp"):
        more = {"TRAINER__CASPL__CHECKPOINT": root / "CasPL"} if trainer.startswith("CasPL_") else {}
        train.run(toy.command(root, trainer, root / trainer, **more))
    return root


@pytest.mark.parametrize("trainer", TRAINERS)
def test_plain_module_equals_the_classifier(root, trainer):
    """Depths of 1 to 3 of 3 blocks are among the hosts and the boosting prompt."""
    classifier = deploy.load(root / trainer)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(PlainClassifier(classifier)(images), classifier(images), atol=5e-5, rtol=0)


@pytest.mark.parametrize("ending", export.ENDINGS)
def test_file_equals_pytorch_for_any_batch(root, tmp_path, ending):
    classifier = deploy.load(root / "CasPL_MaPLe")
    path = tmp_path / f"pets{ending}"
    assert export.export(classifier, path) <= export.TOLERANCE
    run = (export.pt2_runner if ending == ".pt2" else export.onnx_runner)(path)
    for count in (1, 2, 17):
        images = torch.randn(count, 3, 16, 16)
        torch.testing.assert_close(run(images), classifier(images), atol=1e-4, rtol=0)


def test_difference_above_the_tolerance_writes_nothing(root, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "pt2_runner", lambda path: lambda images: torch.zeros(len(images), 6))
    with pytest.raises(export.ExportError, match="differ from PyTorch's by"):
        export.export(deploy.load(root / "CoOp"), tmp_path / "coop.pt2")
    assert not list(tmp_path.iterdir())


def test_cocoop_is_rejected_with_the_reason(root, tmp_path):
    with pytest.raises(ConfigError, match="depend on the image"):
        export.export(deploy.load(root / "CoCoOp"), tmp_path / "cocoop.onnx")


def test_int8_command_prints_sizes_and_accuracy(root, tmp_path, capsys):
    folder = tmp_path / "photos"
    for index, name in enumerate(toy.NAMES):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), (40 * index, 90, 200 - 30 * index)).save(folder / name / "a.png")
    line = ["export", str(root / "CasPL_CoOp"), str(tmp_path / "small.onnx"), "--int8"]
    assert caspl([*line, "--calibrate", str(folder), "--labelled", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "of the float32 file" in printed and printed.count("% of 6 images") == 3
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "small.float32.onnx").stat().st_size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["x.pt2", "--int8"], "--int8 writes ONNX"),
        (["x.onnx", "--calibrate", "."], "--calibrate is for --int8"),
        (["x.pb"], "ending"),
    ],
)
def test_mistakes_end_in_one_line(root, capsys, monkeypatch, line, message):
    monkeypatch.chdir(root)
    assert caspl(["export", "CoOp", *line]) == 2
    assert message in capsys.readouterr().err and not (root / line[0]).exists()


BLOCKED = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'clip', 'caspl', 'trainers'])); import runpy; "


@pytest.mark.parametrize("size", [(16, 16), (40, 23), (17, 31)])
def test_example_needs_no_torch_and_finds_the_same_class(root, tmp_path, size):
    classifier = deploy.load(root / "CasPL_PromptSRC")
    export.export(classifier, tmp_path / "c.onnx")
    pixels = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    script = BLOCKED + "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", script, str(ROOT / "examples" / "classify_onnx.py"), str(tmp_path / "c.onnx")]
    done = subprocess.run([*command, str(tmp_path / "a.png")], capture_output=True, text=True, check=True)
    (expected,) = classifier.predict(tmp_path / "a.png")
    _, _, found = done.stdout.strip().rpartition(": ")
    name, probability = found.rsplit(" ", 1)
    assert name == expected.label and float(probability) == pytest.approx(expected.top[0][1], abs=0.02)


def test_metadata_names_classes_and_preprocessing(root):
    values = export.described(deploy.load(root / "CoOp"))
    assert json.loads(values["class_names"]) == toy.NAMES
    how = json.loads(values["preprocessing"])
    assert how["size"] == [16, 16] and load_clip(str(root / "student.pt")).visual.input_resolution == 16
    assert how["mean"] == pytest.approx([0.485, 0.456, 0.406])
