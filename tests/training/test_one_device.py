"""Every computation of a run stays on one device: models on `meta`, checked operation by operation."""

import protocol
import pytest
import torch
import toy
from dassl.engine import build_trainer
from dassl.optim import build_lr_scheduler, build_optimizer
from one_device import META, DeviceError, checked, move
from torch.nn import functional as F

from trainers.cli import train
from trainers.engine import PromptedCLIP
from trainers.hosts.cocoop import ConditionalContext
from trainers.training import features, loaders, parallel
from trainers.training.figures import RunningFigures

TRAINERS = ("CasPL", "CoOp", "CoCoOp", "MaPLe", "PromptSRC", "KgCoOp", "TCP", "PromptKD", "CasPL_MaPLe", "CasPL_CoCoOp")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images, CLIPs and a boosting prompt."""
    root = tmp_path_factory.mktemp("one_device")
    protocol.prepare(root)
    train.run(toy.command(root, "CasPL", root / "boost", TEST__NO_TEST=True))
    return root


def build(root, folder, trainer, **more):
    """Build a trainer on the CPU and move it to `meta`."""
    more = {
        f"TRAINER__{name.upper()}__PREC": "fp32" for name in ("KgCoOp", "TCP", "PromptKD") if name == trainer
    } | more
    if trainer.startswith("CasPL_"):
        more["TRAINER__CASPL__CHECKPOINT"] = root / "boost"
    if trainer == "TCP":
        more["TRAINER__TCP__LAYER"] = 1
    if trainer == "PromptKD":
        more |= {"TRAINER__PROMPTKD__TEACHER": root / "teacher.pt", "TRAINER__PROMPTKD__PROMPT_DEPTH_VISION": 2}
    made = build_trainer(train.setup_cfg(train.parse(toy.command(root, trainer, folder, **more))))
    to_meta(made)
    return made


def to_meta(trainer):
    """Move a trainer's modules, and build its optimiser again."""
    teacher = [trainer.teacher, trainer.transforms] if hasattr(trainer, "teacher") else []
    if teacher:
        trainer.teacher._classes = None
    move(trainer.model, *teacher)
    trainer.device = META
    (learner,) = trainer._models.values()
    trainer.optim = build_optimizer(learner, trainer.cfg.OPTIM)
    trainer.sched = build_lr_scheduler(trainer.optim, trainer.cfg.OPTIM)
    trainer.set_model_mode("train")
    trainer.num_batches = 100


def steps(trainer, count=3):
    """Train some steps; from the second on, nothing within a step may leave the device."""
    gradients = trainer.gradients

    def strictly(batch):
        with checked(strict=trainer.batch_idx > 0):
            return gradients(batch)

    trainer._step = strictly
    trainer.cfg.defrost()
    trainer.cfg.TRAIN.PRINT_FREQ = 0
    batches = iter(loaders.TimedLoader(trainer.train_loader_x, META))
    with checked() as mode:
        for trainer.batch_idx in range(count):
            trainer.forward_backward(next(batches))
    return mode.count


@pytest.mark.parametrize("trainer", TRAINERS)
def test_training_step_stays_on_device(root, tmp_path, trainer):
    trainer = build(root, tmp_path, trainer)
    assert steps(trainer) > 100
    (learner,) = trainer._models.values()
    assert all(parameter.grad is None or parameter.grad.device == META for parameter in learner.parameters())


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_optimiser_stays_on_device(root, tmp_path, name):
    steps(build(root, tmp_path, "CoOp", OPTIM__NAME=name))


def test_phase_1_with_cached_teacher_and_views_stays_on_device(root, tmp_path):
    more = {"TRAINER__CASPL__TEACHER__CACHE": tmp_path / "cache", "TRAINER__CASPL__TEACHER__VIEWS": 2}
    train.run(toy.command(root, "CasPL", tmp_path / "fill", TEST__NO_TEST=True, OPTIM__MAX_EPOCH=2, **more))
    made = build_trainer(train.setup_cfg(train.parse(toy.command(root, "CasPL", tmp_path / "run", **more))))
    made.caches = made.open_caches()
    made.train_loader_x.dataset.epoch = 1
    to_meta(made)
    made.teacher.image_features = pytest.fail
    steps(made)


def check_evaluation(made, monkeypatch):
    """Evaluate a trainer on `meta`."""
    made.model._cached, seen = None, []
    monkeypatch.setattr(
        parallel.GatheringEvaluator, "process", lambda self, output, label: seen.append((output, label))
    )
    monkeypatch.setattr(parallel.GatheringEvaluator, "evaluate", lambda self: {"accuracy": 0.0})
    with checked():
        made.test()
    assert seen and all(output.device == META and label.device.type == "cpu" for output, label in seen)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_evaluation_stays_on_device(root, tmp_path, monkeypatch, trainer):
    check_evaluation(build(root, tmp_path, trainer), monkeypatch)


@pytest.mark.parametrize("trainer", ["ZeroshotCLIP", "CoOp", "CoCoOp"])
def test_evaluation_with_kept_features_stays_on_device(root, tmp_path, monkeypatch, trainer):
    more = {"TEST__FEATURES": tmp_path / "kept"}
    made = build_trainer(train.setup_cfg(train.parse(toy.command(root, trainer, tmp_path, **more))))
    made.test()
    cache = features.test_cache(made, made.test_loader)
    assert cache.complete()
    move(made.model)
    made.device = META
    monkeypatch.setattr(features, "test_cache", lambda trainer, loader: cache)
    made.model.encode = pytest.fail
    check_evaluation(made, monkeypatch)


def test_figures_are_summed_on_device():
    figures = RunningFigures()
    with checked(strict=True):
        for _ in range(3):
            figures.add({"loss": torch.ones((), device=META), "acc": torch.ones(1, device=META)})
    assert figures.steps == 3


def in_shift(make):
    """A fault in CoCoOp's context."""

    def conditioned(self, image_features):
        shift = make(self, self.meta_net(image_features))
        return [(self.ctx + shift[:, None])[:, None]]

    return conditioned


FAULTS = {
    "a constant on the CPU": (
        ConditionalContext,
        "conditioned",
        in_shift(lambda self, shift: shift + torch.ones(shift.shape[1])),
    ),
    "a value that the host reads": (
        ConditionalContext,
        "conditioned",
        in_shift(lambda self, shift: shift * self.ctx.sum().item()),
    ),
    "an index on the CPU": (
        ConditionalContext,
        "conditioned",
        in_shift(lambda self, shift: shift[torch.arange(len(shift))]),
    ),
    "a copy to the device within a step": (
        ConditionalContext,
        "conditioned",
        in_shift(lambda self, shift: shift + torch.ones(shift.shape[1]).to(shift.device)),
    ),
    "labels that remain on the CPU": (
        PromptedCLIP,
        "loss_terms",
        lambda self, image, label: ({"ce": F.cross_entropy(self(image), torch.zeros(len(label)).long())}, self(image)),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(root, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(*FAULTS[fault])
    with pytest.raises((DeviceError, RuntimeError, NotImplementedError)):
        steps(build(root, tmp_path, "CoCoOp"))
