"""Whole training steps of the further hosts compile to a single graph without a warm-up step, equal to eager ones."""

import protocol
import pytest
import torch
import toy
import versions
from dassl.engine import build_trainer
from dassl.utils import set_random_seed
from test_compile import check_one_graph

from scripts.benchmark.works import Step
from trainers.cli import train
from trainers.hosts.promptkd import distillation_loss

pytestmark = versions.compiles

OPTIONS = {
    "KgCoOp": {},
    "TCP": {"TRAINER__TCP__LAYER": 1},
    "PromptKD": {"TRAINER__PROMPTKD__PROMPT_DEPTH_VISION": 2},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images and CLIPs."""
    root = tmp_path_factory.mktemp("compiled")
    protocol.prepare(root)
    return root


def step_of(root, folder, host):
    """Return a training step of a host."""
    more = {f"TRAINER__{host.upper()}__PREC": "fp32"} | OPTIONS[host]
    if host == "PromptKD":
        more["TRAINER__PROMPTKD__TEACHER"] = root / "teacher.pt"
    set_random_seed(1)
    trainer = build_trainer(train.setup_cfg(train.parse(toy.command(root, host, folder, **more))))
    model, image, label = trainer.model, torch.randn(2, 3, 16, 16), torch.tensor([1, 0])

    def loss():
        return sum(model.loss_terms(image, label)[0].values())

    def distillation():
        with torch.no_grad():
            features = trainer.teacher.members[0].image_features(trainer.transforms[0](image))
            teacher, classes = trainer.teacher.logits(features), trainer.teacher.class_features()
        student = model.clip.logit_scale.exp() * model.image_features(image) @ classes.t()
        return distillation_loss(student, teacher, 1.0, 1.0)

    return Step(model, distillation if host == "PromptKD" else loss)


@pytest.mark.slow
@pytest.mark.parametrize("host", OPTIONS)
def test_step_of_host_compiles_to_one_graph(root, tmp_path, host, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # the GPU's implementation of the towers
    torch._dynamo.reset()
    check_one_graph(step_of(root, tmp_path, host), least=1e-9)
