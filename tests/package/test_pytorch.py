"""An older PyTorch: one line about what needs a newer one, and the rest works."""

from types import SimpleNamespace

import pytest
import torch
from torch.torch_version import TorchVersion

from scripts.benchmark import gpu_check
from trainers.__main__ import main as caspl
from trainers.config import ConfigError
from trainers.deploy.export import export
from trainers.training import graphs

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def oldest(monkeypatch):
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.3.1+cpu"))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("cost shapes", "caspl cost"),
        ("base2new shapes 1 --dry-run", "--dry-run"),
        ("reproduce base2new --dry-run", "--dry-run"),
        ("boost shapes --dry-run", "--dry-run"),
    ],
)
def test_command_names_found_and_needed_version(line, name, capsys):
    assert caspl(line.split()) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: {name}: PyTorch 2.3.1+cpu; expected 2.6 or newer. Use an environment with")


def test_export_names_needed_version_and_writes_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"^caspl export: PyTorch 2.3.1\+cpu; expected 2.9 or newer\."):
        export(None, tmp_path / "pets.onnx")
    assert not list(tmp_path.iterdir())


def test_gpu_check_skips_compiled_steps():
    for variant in ("compiled", "compiled, graphed"):
        with pytest.raises(gpu_check.Skipped, match="compiling needs PyTorch 2.11 or newer"):
            gpu_check.measured(None, variant, 4, CPU, 1.0)


def test_blocks_are_compiled_by_newer_pytorch_only(monkeypatch):
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: True)
    auto, on = (SimpleNamespace(TRAIN=SimpleNamespace(COMPILE=value)) for value in ("auto", "on"))
    _, why = graphs.compiles(auto, CUDA, True, 10**6)
    assert why == "auto; it needs a GPU with Triton and PyTorch 2.11 or newer"
    with pytest.raises(ConfigError, match=r"^TRAIN.COMPILE on: PyTorch 2.3.1\+cpu; expected 2.11 or newer"):
        graphs.compiles(on, CUDA, True, 10**6)
