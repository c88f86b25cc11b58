"""`TrainerBase`: the models of a run with their optimisers and schedulers, and the training loop's hooks."""

import logging
import os
from collections import OrderedDict

import torch

from dassl.utils import (
    describe_folder,
    get_random_state,
    listdir_nohidden,
    load_checkpoint,
    load_weights,
    resume_from_checkpoint,
    save_checkpoint,
    tolist_if_not,
)

logger = logging.getLogger(__name__)


class TrainerBase:
    """Models registered by name, and `train`, which calls the hooks

    `before_train`, then for each epoch `before_epoch`, `run_epoch`, `after_epoch`, then `after_train`.

    A checkpoint of model `name` is `<directory>/<name>/model.pth.tar-<epoch>`, `epoch` counted from 1.
    """

    def __init__(self):
        self._models = OrderedDict()
        self._optims = OrderedDict()
        self._scheds = OrderedDict()
        self._writer = None

    # Models

    def register_model(self, name="model", model=None, optim=None, sched=None):
        """Put `model` (which may be a part of a larger one) under the trainer's care.

        Raises:
            AttributeError: `super().__init__()` has not run yet.
            ValueError: the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError(f"register_model({name!r}) was called before super().__init__()")
        if name in self._models:
            raise ValueError(f"a model called {name!r} is already registered")
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names=None):
        """All names in the order of registration, or `names` (one or a list) as a list.

        Raises:
            ValueError: one of `names` is not registered.
        """
        if names is None:
            return list(self._models)
        names = tolist_if_not(names)
        for name in names:
            if name not in self._models:
                raise ValueError(f"no model is called {name!r}; registered: {list(self._models)}")
        return names

    def set_model_mode(self, mode="train", names=None):
        """Set models to training ("train") or evaluation ("eval", "test") mode.

        Raises:
            ValueError: another mode.
        """
        if mode not in ("train", "eval", "test"):
            raise ValueError(f'mode must be "train", "eval" or "test", got {mode!r}')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # Files

    def save_model(self, epoch, directory, is_best=False, val_result=None, model_name=""):
        """Write a checkpoint of each model after `epoch` (counted from 0); see `dassl.utils.checkpoint`."""
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            save_checkpoint(
                {
                    "state_dict": self._models[name].state_dict(),
                    "epoch": epoch + 1,
                    "optimizer": None if optim is None else optim.state_dict(),
                    "scheduler": None if sched is None else sched.state_dict(),
                    "val_result": val_result,
                    "random_state": get_random_state(),
                },
                os.path.join(directory, name),
                is_best=is_best,
                model_name=model_name,
            )

    def resume_model_if_exist(self, directory):
        """Continue from the last checkpoints in `directory`, if every model has some.

        Returns:
            int: how many epochs are done; 0 without checkpoints.

        Raises:
            ValueError: the models' last checkpoints are of different epochs.
        """
        folders = {name: os.path.join(directory, name) for name in self.get_model_names()}
        if not folders or not all(os.path.isdir(f) and listdir_nohidden(f) for f in folders.values()):
            logger.info("No checkpoint in %s: train from scratch", directory)
            return 0
        done = {
            name: resume_from_checkpoint(folder, self._models[name], self._optims[name], self._scheds[name])
            for name, folder in folders.items()
        }
        if len(set(done.values())) > 1:
            raise ValueError(
                f"the last checkpoints in {directory} are of different epochs, {done}: let each model's file "
                '"checkpoint" name one of the same epoch'
            )
        return next(iter(done.values()))

    def load_model(self, directory, epoch=None):
        """Load the models' weights, and nothing else, from checkpoints; an empty `directory` loads nothing.

        Args:
            epoch: counted from 1; None: `model-best.pth.tar`.

        Raises:
            FileNotFoundError: a checkpoint is missing; the message says which are there.
            RuntimeError: its keys or shapes are not the model's.
        """
        if not directory:
            logger.info("load_model() is skipped: no folder is given")
            return
        file = "model-best.pth.tar" if epoch is None else f"model.pth.tar-{epoch}"
        for name in self.get_model_names():
            path = os.path.join(directory, name, file)
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"No model {path}: {describe_folder(os.path.dirname(path))}. --load-epoch asks "
                    "for model.pth.tar-<epoch>, none for model-best.pth.tar"
                )
            checkpoint = load_checkpoint(path)
            load_weights(self._models[name], checkpoint["state_dict"], path)
            logger.info(
                "Load %s to %s (epoch=%s, val_result=%s)",
                path,
                name,
                checkpoint.get("epoch"),
                checkpoint.get("val_result"),
            )

    # TensorBoard, if it is installed

    def init_writer(self, log_dir):
        """Start a TensorBoard log in `log_dir`; nothing happens without TensorBoard."""
        if self.__dict__.get("_writer") is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        logger.info("TensorBoard log in %s", log_dir)
        self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self):
        """End the TensorBoard log."""
        if self._writer is not None:
            self._writer.close()

    def write_scalar(self, tag, scalar_value, global_step=None):
        """Add a number to the TensorBoard log, if there is one."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # The loop and its hooks

    def train(self, start_epoch, max_epoch):
        """Run the epochs from `start_epoch` (which `before_train` may move) up to `max_epoch`."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        for self.epoch in range(self.start_epoch, self.max_epoch):  # noqa: B020
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self):
        """Hook."""

    def after_train(self):
        """Hook."""

    def before_epoch(self):
        """Hook."""

    def after_epoch(self):
        """Hook."""

    def run_epoch(self):
        """Hook: one pass over the training data."""
        raise NotImplementedError

    def test(self):
        """Evaluate and return the first result."""
        raise NotImplementedError

    def parse_batch_train(self, batch):
        """Hook: what `forward_backward` needs of a batch, on the device."""
        raise NotImplementedError

    def parse_batch_test(self, batch):
        """Hook: (input, label) of a batch, on the device."""
        raise NotImplementedError

    def forward_backward(self, batch):
        """Hook: one training step; returns {name: number} for the log."""
        raise NotImplementedError

    def model_inference(self, input):
        """Hook: the model's output for evaluation."""
        raise NotImplementedError

    # One step

    def detect_anomaly(self, loss):
        """Raise FloatingPointError unless `loss` is finite."""
        if not torch.isfinite(loss).all():
            place = ", ".join(f"{k} {self.__dict__[k] + 1}" for k in ("epoch", "batch_idx") if k in self.__dict__)
            raise FloatingPointError(f"the loss is {loss.detach()}{f' ({place})' if place else ''}")

    def update_lr(self, names=None):
        """Step the schedulers (once an epoch)."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def model_zero_grad(self, names=None):
        """Forget the gradients."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss):
        """Gradients of `loss`, which must be finite."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names=None):
        """Step the optimisers."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss, names=None):
        """One optimisation step on `loss`."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)
