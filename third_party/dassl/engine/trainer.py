"""`SimpleTrainer`: data, evaluation, checkpoints around a model; `TrainerX`, `TrainerXU`: its epochs."""

import logging
import os
import time

import numpy as np
import torch

from dassl.data import DataManager
from dassl.evaluation import build_evaluator
from dassl.utils import AverageMeter, MetricMeter, describe_folder, load_checkpoint

from .base import TrainerBase
from .progress import Progress, follow, format_seconds

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]

logger = logging.getLogger(__name__)


class SimpleTrainer(TrainerBase):
    """A trainer for `cfg`. A subclass builds and registers its model in `build_model`.

    Attributes: `cfg`, `device`, `output_dir`, `epoch`, `max_epoch`, `evaluator`, `best_result`, and those of
    `build_data_loader`.
    """

    def __init__(self, cfg):
        super().__init__()
        self._progress = None
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

    def check_cfg(self, cfg):
        """Hook: raise an error if the configuration does not suit the trainer."""

    def build_data_loader(self):
        """Set `train_loader_x`, `train_loader_u` and `val_loader` (these two may be None), `test_loader`,
        `num_classes`, `num_source_domains`, `lab2cname`, and `dm`, the `DataManager`."""
        self.dm = dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u
        self.val_loader = dm.val_loader
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname

    def build_model(self):
        """Hook: build the model, optimiser and scheduler, and register them."""
        raise NotImplementedError(
            f"{type(self).__name__} must define build_model(): Dassl's default model (SimpleNet, a backbone "
            "and a linear classifier) is not part of this stand-in"
        )

    def train(self):
        """Train from the last checkpoint, or from scratch, to `max_epoch`; then test."""
        try:
            super().train(self.start_epoch, self.max_epoch)
        finally:
            if self._progress is not None:
                self._progress.close()
                self._progress = None

    def before_train(self):
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

    def _saved_best_result(self):
        """The result of the best model that an interrupted run has left in `output_dir`, else -inf."""
        best = os.path.join(self.output_dir, self.get_model_names()[0], "model-best.pth.tar")
        return load_checkpoint(best)["val_result"] if os.path.isfile(best) else -np.inf

    def after_train(self):
        """Test the last or the best model, as `cfg.TEST` says."""
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

    def after_epoch(self):
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
    def test(self, split=None):
        """Evaluate on `split` ("val" or "test"; None: `cfg.TEST.SPLIT`; without validation data: "test").

        Returns:
            float: the evaluator's first result.
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

    def model_inference(self, input):
        """The model's output for `input`."""
        return self.model(input)

    def parse_batch_test(self, batch):
        """(images, labels) on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def get_current_lr(self, names=None):
        """The learning rate of the first parameter group of the first model (of `names`)."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]

    def _run_batches(self, batches, num_batches):
        """One epoch: `forward_backward(*batch)` for each of `batches`, with progress and log.

        Raises:
            RuntimeError: there are no batches.
        """
        if num_batches == 0:
            raise RuntimeError("nothing to train on: the training loader has no batch")
        self.num_batches = num_batches
        if self._progress is None:
            first = self.epoch * num_batches
            self._progress = Progress(self.max_epoch * num_batches, "train", initial=first)
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        end = time.time()
        for self.batch_idx, batch in enumerate(batches):
            data_time.update(time.time() - end)
            loss_summary = self.forward_backward(*batch)
            batch_time.update(time.time() - end)
            losses.update(loss_summary)
            self._report(losses, batch_time, data_time)
            end = time.time()

    def _report(self, losses, batch_time, data_time):
        """Bar, log line and TensorBoard after a batch."""
        lr, progress = self.get_current_lr(), self._progress
        first_loss = next((f"{name} {meter.val:.4f} " for name, meter in losses.meters.items()), "")
        progress.advance(f"epoch {self.epoch + 1}/{self.max_epoch} {first_loss}lr {lr:.1e}")
        done, every = self.batch_idx + 1, self.cfg.TRAIN.PRINT_FREQ
        if done == self.num_batches or (every > 0 and done % every == 0 and progress.line_due()):
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
    """Trains on labelled images: `forward_backward(batch)`."""

    def run_epoch(self):
        """One pass over `train_loader_x`."""
        self.set_model_mode("train")
        self._run_batches(((batch,) for batch in self.train_loader_x), len(self.train_loader_x))

    def parse_batch_train(self, batch):
        """(images, labels, domains) on the device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))


class TrainerXU(SimpleTrainer):
    """Trains on labelled and unlabelled images: `forward_backward(batch_x, batch_u)`.

    `cfg.TRAIN.COUNT_ITER` says how long an epoch is: "train_x", "train_u" or "smaller_one"; the shorter
    loader starts again where needed.
    """

    def run_epoch(self):
        """One epoch over `train_loader_x` and `train_loader_u`.

        Raises:
            ValueError: there is no unlabelled data, or COUNT_ITER is unknown.
        """
        if self.train_loader_u is None:
            raise ValueError(f"{type(self).__name__} needs unlabelled images: {self.cfg.DATASET.NAME} has no train_u")
        lengths = {"train_x": len(self.train_loader_x), "train_u": len(self.train_loader_u)}
        lengths["smaller_one"] = min(lengths.values())
        count_by = self.cfg.TRAIN.COUNT_ITER
        if count_by not in lengths:
            raise ValueError(f"TRAIN.COUNT_ITER must be one of {list(lengths)}, got {count_by!r}")
        self.set_model_mode("train")
        self._run_batches(self._pairs(lengths[count_by]), lengths[count_by])

    def _pairs(self, number):
        """`number` pairs of batches. Starting a loader draws a random number, so both start first."""
        loaders = [self.train_loader_x, self.train_loader_u]
        running = [iter(loader) for loader in loaders]
        for _ in range(number):
            pair = []
            for i, loader in enumerate(loaders):
                try:
                    pair.append(next(running[i]))
                except StopIteration:
                    running[i] = iter(loader)
                    pair.append(next(running[i]))
            yield tuple(pair)

    def parse_batch_train(self, batch_x, batch_u):
        """(labelled images, their labels, unlabelled images) on the device."""
        batches = (batch_x["img"], batch_x["label"], batch_u["img"])
        return tuple(tensor.to(self.device) for tensor in batches)
