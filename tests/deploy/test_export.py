"""Exported files compute what the classifier computes; int8; the example without torch."""

import json
import os
import subprocess
import sys

import pytest
import torch
import toy
import versions
from children import ALONE
from conftest import ROOT
from deployed import CONSTANT, toys, trained
from one_device import META, checked, move
from PIL import Image

from trainers.__main__ import main as caspl
from trainers.backbones import load_clip
from trainers.config import ConfigError
from trainers.deploy import classifier as deploy
from trainers.deploy import export
from trainers.deploy.plain import PlainClassifier


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs, and the runs that a test needs."""
    root = tmp_path_factory.mktemp("export")
    toys(root)
    for trainer in ("CoOp", "CoCoOp", "CasPL_CoOp", "CasPL_PromptSRC"):
        trained(root, trainer)
    return root


@pytest.mark.parametrize("trainer", CONSTANT)
def test_plain_module_equals_the_classifier(root, trainer):
    """Depths of 1 to 3 of 3 blocks are among the hosts and the boosting prompt."""
    classifier = deploy.load(trained(root, trainer))
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(PlainClassifier(classifier)(images), classifier(images), atol=5e-5, rtol=0)


@versions.exports
@pytest.mark.parametrize("ending", export.ENDINGS)
@pytest.mark.parametrize("trainer", ["CasPL_MaPLe", pytest.param("CasPL_PromptKD", marks=pytest.mark.slow)])
def test_file_equals_pytorch_for_any_batch(root, tmp_path, trainer, ending):
    classifier = deploy.load(trained(root, trainer))
    path = tmp_path / f"pets{ending}"
    assert export.export(classifier, path) <= export.TOLERANCE
    run = (export.pt2_runner if ending == ".pt2" else export.onnx_runner)(path)
    for count in (1, 2, 17):
        images = torch.randn(count, 3, 16, 16)
        torch.testing.assert_close(run(images), classifier(images), atol=1e-4, rtol=0)


@versions.exports
def test_file_is_compared_with_the_classifier_for_batches_1_3_and_9(root, tmp_path, monkeypatch):
    classifier, counts = deploy.load(root / "CoOp"), []
    monkeypatch.setattr(
        export, "pt2_runner", lambda path: lambda images: counts.append(len(images)) or classifier(images)
    )
    assert export.export(classifier, tmp_path / "coop.pt2") == 0 and counts == [1, 3, 9]


@versions.exports
def test_difference_above_the_tolerance_writes_nothing(root, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "pt2_runner", lambda path: lambda images: torch.zeros(len(images), 6))
    with pytest.raises(export.ExportError, match="differ from PyTorch's by"):
        export.export(deploy.load(root / "CoOp"), tmp_path / "coop.pt2")
    assert not list(tmp_path.iterdir())


@versions.exports
def test_cocoop_is_rejected_with_the_reason(root, tmp_path):
    with pytest.raises(ConfigError, match="depend on the image"):
        export.export(deploy.load(root / "CoCoOp"), tmp_path / "cocoop.onnx")


@versions.exports
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


EXAMPLE = ROOT / "examples" / "classify_onnx.py"
BLOCKED = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'clip', 'caspl', 'trainers'])); import runpy; "


@pytest.fixture(scope="module")
def exported(root):
    """A classifier and its ONNX file."""
    classifier, path = deploy.load(root / "CasPL_PromptSRC"), root / "c.onnx"
    export.export(classifier, path)
    return classifier, path


@versions.exports
@pytest.mark.parametrize("size", [(16, 16), (40, 23), (17, 31)])
def test_example_needs_no_torch_and_finds_the_same_class(exported, tmp_path, size):
    classifier, path = exported
    pixels = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    script = BLOCKED + "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", script, str(EXAMPLE), str(path)]
    done = subprocess.run([*command, str(tmp_path / "a.png")], capture_output=True, text=True, check=True)
    (expected,) = classifier.predict(tmp_path / "a.png")
    name, probability = done.stdout.strip().rpartition(": ")[2].rsplit(" ", 1)
    assert name == expected.label and float(probability) == pytest.approx(expected.top[0][1], abs=0.02)


@versions.exports
@pytest.mark.slow
def test_example_runs_in_a_new_environment_with_three_packages(exported, tmp_path):
    """A real virtual environment with onnxruntime, numpy and Pillow, which pip downloads or has cached."""
    classifier, path = exported
    assert len(EXAMPLE.read_text().splitlines()) <= 20
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*install, "onnxruntime", "numpy", "Pillow"], capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"pip cannot install onnxruntime, numpy and Pillow: {done.stderr.strip().splitlines()[-1]}")
    absent = [str(python), "-c", "import importlib.util as u; print(u.find_spec('torch'))"]
    assert subprocess.run(absent, capture_output=True, text=True, env=ALONE).stdout.strip() == "None"
    Image.new("RGB", (40, 23), (90, 30, 200)).save(tmp_path / "a.png")
    command = [str(python), str(EXAMPLE), str(path), str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ALONE)
    (expected,) = classifier.predict(tmp_path / "a.png")
    assert done.stdout.strip() == f"{tmp_path / 'a.png'}: {expected.label} {expected.top[0][1]:.3f}"


def test_metadata_names_classes_and_preprocessing(root):
    values = export.described(deploy.load(root / "CoOp"))
    assert json.loads(values["class_names"]) == toy.NAMES
    how = json.loads(values["preprocessing"])
    assert how["size"] == [16, 16] and load_clip(str(root / "student.pt")).visual.input_resolution == 16
    assert how["mean"] == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("trainer", ["CoOp", "CasPL_PromptSRC"])
def test_exported_module_stays_on_device(root, trainer):
    module = PlainClassifier(deploy.load(trained(root, trainer)))
    move(module)
    with checked(strict=True) as mode, torch.no_grad():
        assert module(torch.empty(5, 3, 16, 16, device=META)).device == META
    assert mode.count > 20
