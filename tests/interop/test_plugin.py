"""`import caspl` in a toolbox, and CasPL around an unknown host."""

import os
import subprocess
import sys

import pytest
import torch
import toy
from conftest import ROOT
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint
from forks import Fork
from torch.nn import functional as F

import trainers
from trainers.backbones import load_clip
from trainers.cli import train
from trainers.hosts import coop
from trainers.method import prompt_file
from trainers.plugin.structure import HostError


@TRAINER_REGISTRY.register()
class Unheard(TrainerX):
    """A trainer in the family's style, with its own model."""

    def build_model(self):
        names = self.dm.dataset.classnames
        self.model = Fork("CoOp", coop.build(load_clip(self.cfg.MODEL.BACKBONE.NAME), names, 4), names, 4)
        self.model.requires_grad_(False).prompt_learner.requires_grad_(True)
        self.optim = build_optimizer(self.model.prompt_learner, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)

    def load_model(self, directory, epoch=None):
        path = os.path.join(directory, "prompt_learner", f"model.pth.tar-{epoch}")
        self.model.prompt_learner.load_state_dict(load_checkpoint(path)["state_dict"])

    def forward_backward(self, batch):
        loss = F.cross_entropy(self.model(batch["img"]), batch["label"])
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}


@TRAINER_REGISTRY.register()
class Unlike(Unheard):
    """A trainer whose model is built in another way."""

    def build_model(self):
        self.model = torch.nn.Linear(1, 1)


trainers.wrap("Unheard")
trainers.wrap("Unlike")


@pytest.fixture
def place(tmp_path):
    """A toy CLIP, and a boosting prompt for it."""
    toy.save_clip(tmp_path / "student.pt")
    torch.manual_seed(0)
    group = prompt_file.PromptGroup.random((2, 3, 64), (3, 2, 64))
    prompt_file.save_boosting(tmp_path / prompt_file.FILE_NAME, group, prompt_file.BoostingInfo())
    return tmp_path


def test_unheard_host_is_trained_and_evaluated(place):
    """The same accuracy from the run's folder; the boosting prompt untouched, and not among what the host saves."""
    run, options = place / "run", {"TRAINER__CASPL__CHECKPOINT": place}
    accuracy = train.run(toy.command(place, "CasPL_Unheard", run, **options))
    assert accuracy == train.run(["--eval-only", "--model-dir", str(run), "--load-epoch", "1"])
    state = torch.load(run / "prompt_learner" / "model.pth.tar-1", weights_only=True)["state_dict"]
    assert sorted(state) == ["learner.ctx", "token_prefix", "token_suffix"]
    assert (run / prompt_file.FILE_NAME).read_bytes() == (place / prompt_file.FILE_NAME).read_bytes()


def test_host_of_another_structure_is_rejected(place):
    with pytest.raises(HostError, match="Linear: no vision tower found; expected blocks with attn, ln_1, ln_2 and mlp"):
        train.run(toy.command(place, "CasPL_Unlike", place / "run", TRAINER__CASPL__CHECKPOINT=place))


TOOLBOX = """
import {first}
from dassl.engine import TRAINER_REGISTRY, TrainerX
before = set(TRAINER_REGISTRY.registered_names())

@TRAINER_REGISTRY.register()
class CoOp(TrainerX):
    pass

import caspl
from yacs.config import CfgNode

@TRAINER_REGISTRY.register()
class MaPLe(TrainerX):
    pass

added = set(TRAINER_REGISTRY.registered_names()) - before - {{"CoOp", "MaPLe"}}
assert all(name == "CasPL" or name.startswith(("CasPL_", "CasPL-")) for name in added), added
for host in (CoOp, MaPLe):
    assert issubclass(caspl.plugin.cascade.cascaded(host.__name__), host)
cfg = CfgNode({{"DATASET": {{}}, "TRAINER": {{}}}})
caspl.extend_cfg(cfg)
assert cfg.TRAINER.CASPL.CHECKPOINT == ""
"""


@pytest.mark.parametrize("first", ["caspl", "dassl"])
def test_import_in_a_toolbox(tmp_path, first):
    """Only CasPL's own names are registered, before or after the toolbox's trainers, which take precedence."""
    (tmp_path / "caspl").symlink_to(ROOT / "trainers")
    (tmp_path / "train.py").write_text(TOOLBOX.format(first=first))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "tests")])}
    if first == "dassl":
        environment["PYTHONPATH"] += os.pathsep + str(ROOT / "third_party")
        environment["IMPORTED_LATE"] = "1"
    command = [sys.executable, "-m", "interop.drive", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
