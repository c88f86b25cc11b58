"""Run command lines of train.py in one rank of test_parallel.py, and write their outcomes or errors.

python parallel_worker.py '[["name", ["--trainer", ...]], ...]' FOLDER        (torchrun's variables in the environment)
"""

import contextlib
import dataclasses
import importlib
import json
import sys
import traceback
from pathlib import Path
from unittest import mock

import clip.model
import torch

from trainers.cli import train
from trainers.cli.program import show_log
from trainers.training import parallel
from trainers.training.trainer import PromptTrainer

importlib.import_module("toy")  # registers the toys


class Stopped(Exception):
    """A run that ends early."""


class Recorder:
    """Record a run: gradients of the first step, final parameters, figures of all steps, logits of evaluations.

    `nan_on`: the process whose first loss is to be no number; `stop_at`: the step that no process takes.
    """

    def __init__(self, nan_on=None, stop_at=None):
        self.stop_at = stop_at
        self.gradients, self.steps, self.trainer, self.evaluated, self.nan_on = {}, [], None, [], nan_on

    def forward_backward(self, trainer, batch):
        """Record one step."""
        if self.nan_on == parallel.rank():
            batch = batch | {"img": batch["img"] * float("nan")}
        if len(self.steps) == self.stop_at:
            raise Stopped
        figures = _STEP(trainer, batch)
        (learner,) = trainer._models.values()
        if not self.steps:
            self.gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
            process = trainer.evaluator.process
            trainer.evaluator.process = lambda output, label: (self.evaluated.append(output), process(output, label))
        self.steps.append((figures, batch["impath"]))
        self.trainer = trainer
        return figures

    def outcome(self, metrics):
        """Return everything recorded."""
        (learner,) = self.trainer._models.values()
        parameters = {name: p.detach().clone() for name, p in learner.named_parameters()}
        logits = torch.cat(self.evaluated) if self.evaluated else None
        return {
            "metrics": dict(metrics),
            "gradients": self.gradients,
            "parameters": parameters,
            "figures": [figures for figures, _ in self.steps],
            "images": [paths for _, paths in self.steps],
            "logits": logits,
        }


_STEP, _REGISTER = PromptTrainer.forward_backward, PromptTrainer.register_learner


def register_in_double(trainer, name, learner, precision):
    """Register a learner in float64, where rounding, which depends on the batch size, is negligible."""
    for model in (trainer.model, getattr(trainer, "teacher", trainer.model)):
        model.double()
    _REGISTER(trainer, name, learner, dataclasses.replace(precision, prompts=torch.float64))


def recorded(line, **options):
    """Return the outcome of a command line of train.py in float64 (including CLIP's LayerNorms, which cast to float32)."""
    recorder = Recorder(**options)
    with (
        mock.patch.object(PromptTrainer, "forward_backward", lambda *args: recorder.forward_backward(*args)),
        mock.patch.object(PromptTrainer, "register_learner", register_in_double),
        mock.patch.object(clip.model.LayerNorm, "forward", torch.nn.LayerNorm.forward),
    ):
        return recorder.outcome(train.run(line))


def main():
    """Write each line's outcome or error to FOLDER/<name>.<rank>.pt."""
    lines, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    show_log()  # as the commands do
    before = threads()
    with parallel.processes(cuda=False):
        for name, line in lines:
            try:
                if name == "resumed":
                    with contextlib.suppress(Stopped):
                        recorded(line, stop_at=8)
                outcome = recorded(line, nan_on=1 if name == "diverging" else None)
            except (ValueError, FloatingPointError) as error:
                outcome = {"error": f"{type(error).__name__}: {error}"}
            except Exception:
                traceback.print_exc()
                raise
            torch.save(outcome, folder / f"{name}.{parallel.rank()}.pt")
        during, number = threads(), parallel.rank()
    (folder / f"threads.{number}.json").write_text(json.dumps([before, during, threads()]))


def threads():
    """Return the number of threads of this process (Linux only)."""
    return len(list((Path("/proc/self") / "task").iterdir()))


if __name__ == "__main__":
    main()
