"""`TrainerBase`: the models of a run with their optimisers and schedulers, and the training loop's hooks."""

import logging
import os
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from dassl.utils import (
    describe_folder,
    listdir_nohidden,
    load_checkpoint,
    load_weights,
    resume_from_checkpoint,
    save_checkpoint,
)

logger = logging.getLogger(__name__)

Names = str | list[str] | None


class TrainerBase:
    """Models registered by name, and `train`, which calls the hooks.

    The order is `before_train`, for each epoch `before_epoch`, `run_epoch`, `after_epoch`, then `after_train`. The
    checkpoint of model `name` is `<directory>/<name>/model.pth.tar-<epoch>`, `epoch` counted from 1.
    """

    start_epoch: int
    epoch: int
    max_epoch: int

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None

    # Models

    def register_model(
        self, name: str = "model", model: nn.Module | None = None, optim: Any = None, sched: Any = None
    ) -> None:
        """Register a model, which may be a part of a larger one, to be trained, saved and loaded.

        Raises:
            AttributeError: `super().__init__()` has not run yet.
            ValueError: the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError(f"register_model({name!r}) was called before super().__init__()")
        if name in self._models:
            raise ValueError(f"a model called {name!r} is already registered")
        self._models[name] = model  # type: ignore[assignment]
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: Names = None) -> list[str]:
        """Return `names` (one or a list) as a list.

        None: all names in the order of registration.

        Raises:
            ValueError: one of `names` is not registered.
        """
        if names is None:
            return list(self._models)
        names = names if isinstance(names, list) else [names]
        for name in names:
            if name not in self._models:
                raise ValueError(f"no model is called {name!r}; registered: {list(self._models)}")
        return names

    def set_model_mode(self, mode: str = "train", names: Names = None) -> None:
        """Set models to training ("train") or evaluation ("eval", "test") mode.

        Raises:
            ValueError: another mode.
        """
        if mode not in ("train", "eval", "test"):
            raise ValueError(f'mode: {mode!r}; expected "train", "eval" or "test"')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # Files

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Write a checkpoint of each model after `epoch`, counted from 0 (see `dassl.utils.save_checkpoint`)."""
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            save_checkpoint(
                {
                    "state_dict": self._models[name].state_dict(),
                    "epoch": epoch + 1,
                    "optimizer": None if optim is None else optim.state_dict(),
                    "scheduler": None if sched is None else sched.state_dict(),
                    "val_result": val_result,
                },
                os.path.join(directory, name),
                is_best=is_best,
                model_name=model_name,
            )

    def resume_model_if_exist(self, directory: str) -> int:
        """Resume from the last checkpoints in `directory`, if every model has some.

        Returns:
            The number of finished epochs; 0 without checkpoints.

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

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the models' weights, and nothing else, from checkpoints.

        A no-op without a directory.

        Args:
            directory: the run's folder.
            epoch: counted from 1; None: `model-best.pth.tar`.

        Raises:
            FileNotFoundError: a checkpoint is missing; the message lists existing files.
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
                    f"No model {path}: {describe_folder(os.path.dirname(path))}. --load-epoch selects "
                    "model.pth.tar-<epoch>; without it, model-best.pth.tar is loaded"
                )
            checkpoint = load_checkpoint(path)
            load_weights(self._models[name], checkpoint["state_dict"], path)
            logger.info("Loaded %s from %s (epoch %s)", name, path, checkpoint.get("epoch"))

    # TensorBoard, if it is installed

    def init_writer(self, log_dir: str) -> None:
        """Start a TensorBoard log in `log_dir`; a no-op without TensorBoard."""
        if self.__dict__.get("_writer") is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        logger.info("TensorBoard log in %s", log_dir)
        self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        """Close the TensorBoard log."""
        if self._writer is not None:
            self._writer.close()

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Add a number to the TensorBoard log, if one is open."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # The loop and its hooks

    def train(self) -> None:
        """Run the epochs from `start_epoch` (which `before_train` may change) up to `max_epoch`."""
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()
        self.after_train()

    def before_train(self) -> None:
        """Prepare training; a hook."""

    def after_train(self) -> None:
        """Finish training; a hook."""

    def before_epoch(self) -> None:
        """Prepare an epoch; a hook."""

    def after_epoch(self) -> None:
        """Finish an epoch; a hook."""

    def run_epoch(self) -> None:
        """Run one pass over the training data; a hook."""
        raise NotImplementedError

    def test(self, split: str | None = None) -> float:
        """Evaluate and return the first result."""
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        """Return the tensors of a batch that `forward_backward` needs, on the device.

        A hook.
        """
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return (input, label) of a batch, on the device; a hook."""
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> dict[str, float]:
        """Run one training step and return {name: number} for the log; a hook."""
        raise NotImplementedError

    def model_inference(self, input: Tensor) -> Tensor:
        """Return the model's output for evaluation; a hook."""
        raise NotImplementedError

    # One step

    def detect_anomaly(self, loss: Tensor) -> None:
        """Raise FloatingPointError unless `loss` is finite."""
        if not torch.isfinite(loss).all():
            place = ", ".join(f"{k} {self.__dict__[k] + 1}" for k in ("epoch", "batch_idx") if k in self.__dict__)
            raise FloatingPointError(f"the loss is {loss.detach()}{f' ({place})' if place else ''}")

    def update_lr(self, names: Names = None) -> None:
        """Step the schedulers, once per epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def model_zero_grad(self, names: Names = None) -> None:
        """Clear the gradients."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: Tensor) -> None:
        """Compute the gradients of `loss`, which must be finite."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: Names = None) -> None:
        """Step the optimisers."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: Tensor, names: Names = None) -> None:
        """Run one optimisation step on `loss`."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)
