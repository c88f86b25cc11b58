"""`SimpleTrainer`: data, evaluation and checkpoints around a model; `TrainerX`: its epochs."""

import logging
import os
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils import AverageMeter, MetricMeter, describe_folder, load_checkpoint

from .bar import ProgressBar, follow, format_seconds
from .base import Names, TrainerBase

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX"]

logger = logging.getLogger(__name__)


class SimpleTrainer(TrainerBase):
    """A trainer for `cfg`.

    A subclass builds and registers its model in `build_model`.

    Args:
        cfg: the whole configuration.

    Attributes:
        device: the GPU, if there is one and USE_CUDA is set, else the CPU.
        output_dir: the run's folder.
        evaluator: the evaluator `cfg.TEST.EVALUATOR`.
        best_result: the best validation result so far.
    """

    model: Any
    lab2cname: dict[int, str]
    train_loader_x: Any
    train_loader_u: Any
    val_loader: Any
    test_loader: Any

    def __init__(self, cfg: CfgNode):
        super().__init__()
        self._bar: ProgressBar | None = None
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -np.inf

    def check_cfg(self, cfg: CfgNode) -> None:
        """Raise an error if the configuration does not suit the trainer; a hook."""

    def build_data_loader(self) -> None:
        """Set `dm` (the `DataManager`), its loaders (those of `DataManager`), `num_classes` and `lab2cname`."""
        self.dm = dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname

    def build_model(self) -> None:
        """Build the model, optimiser and scheduler, and register them; a hook."""
        raise NotImplementedError(
            f"{type(self).__name__} must define build_model(): Dassl's default model (SimpleNet, a backbone "
            "and a linear classifier) is not part of this substitute"
        )

    def train(self) -> None:
        """Train from the last checkpoint, or from scratch, to `max_epoch`; then test."""
        try:
            super().train()
        finally:
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    def before_train(self) -> None:
        """Resume from `cfg.RESUME`, or else from `cfg.OUTPUT_DIR` if it has checkpoints.

        Raises:
            FileNotFoundError: `cfg.RESUME` is given and has none.
        """
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.cfg.OUTPUT_DIR)
        if self.cfg.RESUME and self.start_epoch == 0:
            raise FileNotFoundError(
                f"RESUME has no checkpoints of {self.get_model_names()}: {describe_folder(self.cfg.RESUME)}"
            )
        if self.start_epoch > 0 and self.cfg.TEST.FINAL_MODEL == "best_val":
            self.best_result = self._saved_best_result()
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

    def _saved_best_result(self) -> float:
        """Return the result of the best model that an interrupted run has left in `output_dir`, else -inf."""
        best = os.path.join(self.output_dir, self.get_model_names()[0], "model-best.pth.tar")
        return load_checkpoint(best)["val_result"] if os.path.isfile(best) else -np.inf

    def after_train(self) -> None:
        """Test the last or the best model, as configured in `cfg.TEST`."""
        logger.info("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                logger.info("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                logger.info("Deploy the last-epoch model")
            self.test()
        logger.info("Elapsed: %s", format_seconds(round(time.time() - self.time_start)))
        self.close_writer()

    def after_epoch(self) -> None:
        """Save the best model (if TEST.FINAL_MODEL is best_val), every CHECKPOINT_FREQ-th, and the last."""
        test = self.cfg.TEST
        if not test.NO_TEST and test.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name="model-best.pth.tar")
        done, every = self.epoch + 1, self.cfg.TRAIN.CHECKPOINT_FREQ
        if done == self.max_epoch or (every > 0 and done % every == 0):
            self.save_model(self.epoch, self.output_dir)

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on "val" or "test" and return the evaluator's first result.

        Args:
            split: None: `cfg.TEST.SPLIT`; without validation images, "test" is evaluated.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split = self.cfg.TEST.SPLIT if split is None else split
        if split != "val" or self.val_loader is None:
            split = "test"
        logger.info("Evaluate on the *%s* set", split)
        for batch in follow(self.val_loader if split == "val" else self.test_loader, f"evaluate {split}"):
            input, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(input), label)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input: Tensor) -> Tensor:
        """Return the model's output for `input`."""
        return self.model(input)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return (images, labels) on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names: Names = None) -> float:
        """Return the learning rate of the first parameter group of the first model (of `names`)."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]

    def _run_batches(self, batches: Iterable[Any], num_batches: int) -> None:
        """Run `forward_backward` for each batch of an epoch, with progress and log.

        Raises:
            RuntimeError: the loader is empty.
        """
        if num_batches == 0:
            raise RuntimeError("nothing to train on: the training loader has no batch")
        self.num_batches = num_batches
        if self._bar is None:
            first = self.epoch * num_batches
            self._bar = ProgressBar(self.max_epoch * num_batches, "train", initial=first)
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        end = time.time()
        for index, batch in enumerate(batches):
            self.batch_idx = index
            data_time.update(time.time() - end)
            loss_summary = self.forward_backward(batch)
            batch_time.update(time.time() - end)
            losses.update(loss_summary)
            self._report(self._bar, losses, batch_time, data_time)
            end = time.time()

    def _report(self, bar: ProgressBar, losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter) -> None:
        """Update the bar, the log and TensorBoard after a batch."""
        lr = self.get_current_lr()
        first_loss = next((f"{name} {meter.val:.4f} " for name, meter in losses.meters.items()), "")
        bar.advance(f"epoch {self.epoch + 1}/{self.max_epoch} {first_loss}lr {lr:.1e}")
        done, every = self.batch_idx + 1, self.cfg.TRAIN.PRINT_FREQ
        if done == self.num_batches or (every > 0 and done % every == 0 and bar.line_due()):
            left = (self.max_epoch - self.epoch) * self.num_batches - done
            logger.info(
                f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{done}/{self.num_batches}] "
                f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) "
                f"data {data_time.val:.3f} ({data_time.avg:.3f}) "
                f"{losses} lr {lr:.4e} eta {format_seconds(batch_time.avg * left)}"
            )
        step = self.epoch * self.num_batches + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", lr, step)


class TrainerX(SimpleTrainer):
    """Trains on labelled images."""

    def run_epoch(self) -> None:
        """Run one pass over `train_loader_x`."""
        self.set_model_mode("train")
        self._run_batches(self.train_loader_x, len(self.train_loader_x))

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        """Return (images, labels, domains) on the device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))
