"""The example host of trainers/README.md, unchanged."""

import re
import types

import pytest
import torch
import toy
from conftest import ROOT
from dassl.engine import TRAINER_REGISTRY

import trainers
import trainers.hosts as hosts
from trainers.cli import train
from trainers.method import prompt_file


@pytest.fixture
def registry():
    """Takes out of Dassl's registry what a test has put in."""
    before = set(TRAINER_REGISTRY.registered_names())
    yield
    for name in set(TRAINER_REGISTRY.registered_names()) - before:
        del TRAINER_REGISTRY._obj_map[name]


def test_example_host_runs_alone_and_cascaded(tmp_path, registry):
    code = re.search(r"```python\n(.*?)```", (ROOT / "trainers" / "README.md").read_text(), re.S).group(1)
    module = types.ModuleType("trainers.hosts.shallowvpt")
    exec(
        compile(code, "trainers/README.md", "exec"),
        module.__dict__ | {"__name__": module.__name__, "__package__": hosts.__name__},
    )
    trainers.wrap("ShallowVPT")
    toy.save_clip(tmp_path / "student.pt")
    group = prompt_file.PromptGroup(torch.randn(2, 3, 64) * 0.02, torch.randn(2, 3, 64) * 0.02)
    prompt_file.save_boosting(tmp_path / prompt_file.FILE_NAME, group, prompt_file.BoostingInfo())
    more = {"TRAINER__SHALLOWVPT__PREC": "fp32", "TRAINER__CASPL__CHECKPOINT": tmp_path}
    for trainer in ("ShallowVPT", "CasPL_ShallowVPT"):
        folder = tmp_path / trainer
        accuracy = train.run(toy.command(tmp_path, trainer, folder, **more))
        assert accuracy == train.run(["--eval-only", "--model-dir", str(folder)])
        state = torch.load(folder / "prompt_learner" / "model.pth.tar-1", weights_only=True)["state_dict"]
        assert state["tokens"].shape == (4, 64)
