"""A diverging training stops with its epoch and batch and keeps the last finite state; AMP's overflows are counted."""

import itertools

import protocol
import pytest
import torch
import toy
from dassl.engine import TRAINER_REGISTRY, build_trainer
from test_kill import assert_same

from trainers.cli import train
from trainers.cli.program import guarded
from trainers.training.log import logging_to
from trainers.training.resume import DivergedError
from trainers.training.trainer import PromptTrainer

CHECKPOINT = "prompt_learner/model.pth.tar-3"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, CLIPs, and an undisturbed run of three epochs with six batches each."""
    root = tmp_path_factory.mktemp("wrong")
    protocol.prepare(root)
    train.run(line(root, root / "undisturbed"))
    return root


def line(root, folder):
    """A command line of train.py."""
    return toy.command(root, "CoOp", folder, OPTIM__MAX_EPOCH=3)


def at_batch(epoch, batch, change):
    """A `compute_loss` whose loss is changed in one batch (both counted from 1)."""
    compute = TRAINER_REGISTRY.get("CoOp").compute_loss

    def compute_loss(trainer, images):
        loss, figures = compute(trainer, images)
        if (trainer.epoch + 1, trainer.batch_idx + 1) == (epoch, batch):
            loss = change(loss)
        return loss, figures

    return compute_loss


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_non_finite_loss_stops_run(root, tmp_path, monkeypatch, capsys, value):
    with monkeypatch.context() as patch:
        patch.setattr(TRAINER_REGISTRY.get("CoOp"), "compute_loss", at_batch(2, 3, lambda x: x * float(value)))
        assert guarded(lambda: train.run(line(root, tmp_path / "run"))) == 2
    error = capsys.readouterr().err
    assert f"error: the loss is {value} (epoch 2, batch 3 of 6); the run stops" in error
    assert f"the state of the last whole epoch is kept in {tmp_path / 'run' / 'progress.pt'}" in error
    train.run(line(root, tmp_path / "run"))  # the state that was kept is a good one
    runs = (tmp_path / "run", root / "undisturbed")
    assert_same(*(torch.load(run / CHECKPOINT, weights_only=True) for run in runs))


def test_non_finite_parameter_is_not_saved(root, tmp_path, monkeypatch, capsys):
    def finish_epoch(trainer, finish=PromptTrainer.finish_epoch):
        finish(trainer)
        if trainer.epoch == 2:
            trainer.model.prompt_learner.ctx.data[0, 0] = float("nan")

    monkeypatch.setattr(PromptTrainer, "finish_epoch", finish_epoch)
    assert guarded(lambda: train.run(line(root, tmp_path / "run"))) == 2
    assert "prompt_learner's ctx has values that are not finite (epoch 3, batch 6 of 6)" in capsys.readouterr().err
    assert torch.load(tmp_path / "run" / "progress.pt", weights_only=True)["epochs"] == 2
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def scaled(root, folder, scale, overflowing):
    """A trainer with a scaled loss, whose gradients overflow in these steps (counted from 1)."""
    trainer = build_trainer(train.setup_cfg(train.parse(line(root, folder))))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    steps, seen = [0], []

    def overflow(gradient):
        steps[0] += 1
        seen.append(trainer.model.prompt_learner.ctx.detach().clone())
        return gradient * float("inf") if steps[0] in overflowing else gradient

    trainer.model.prompt_learner.ctx.register_hook(overflow)
    return trainer, seen


def test_amp_overflow_is_skipped_and_counted(root, tmp_path, capsys):
    trainer, seen = scaled(root, tmp_path, 1024.0, {2, 9})
    with logging_to(str(tmp_path)):
        trainer.train()
    same = [step for step, (one, other) in enumerate(itertools.pairwise(seen), 1) if torch.equal(one, other)]
    assert (trainer.skipped, same) == (2, [2, 9])
    log = (tmp_path / "log.txt").read_text()
    assert "Skipped 1 steps so far: their gradients overflowed float16" in log and "Skipped 2 steps" in log


def test_gradients_that_stay_non_finite_stop_run(root, tmp_path):
    trainer, _ = scaled(root, tmp_path, 4.0, range(100))
    with pytest.raises(DivergedError, match=r"gradients are not finite, however .* \(epoch 1, batch 3 of 6\)"):
        trainer.train()
