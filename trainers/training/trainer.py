"""The base class of this package's trainers: training steps under a precision, data, checkpoints."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from dassl.data import DataManager
from dassl.engine import TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import Tensor, nn
from yacs.config import CfgNode

from ..backbones import tokenizer_by_name
from ..engine import Encoded
from ..engine.precision import Precision
from ..storage.tensors import read_checkpoint
from . import features, loaders, parallel, provenance
from .checkpoints import BEST, find_checkpoint, load_learner, write_checkpoint
from .class_vectors import NAMES, TENSOR, ClassVectors
from .dataset import ImageDataset
from .figures import RunningFigures
from .graphs import Step, accelerated
from .learned_file import LEARNED, save_learned
from .log import announce
from .optimiser import fused
from .records import append_epoch
from .resume import DivergedError, Resumable, plain
from .rng import get_rng_state
from .tracking import Tracker

logger = logging.getLogger(__name__)

EPOCHS_PER_LINE = 5  # on the console
_SHARES = ("acc", "agreement")  # figures of `compute_loss` in per cent; the console shows them as shares


class PromptTrainer(Resumable, TrainerX):
    """A Dassl trainer that learns a few prompt parameters around a frozen CLIP.

    A subclass calls `register_learner` at the end of `build_model` and implements `compute_loss`.

    Attributes:
        reads_labels: False if the batches that `compute_loss` receives have no labels.
        figure_titles: what the console calls the figures of `compute_loss`.
        precision: the precision of the learner and of its steps.
        tracker: gets the figures of each epoch.
        run_identity: what determines the run's numbers, kept with its checkpoints; None outside of a `Run`.
        class_rows: of class-specific contexts, the trained rows that are evaluated; None: all.
        class_vectors: kept with the learned prompts; None if the text tower computes the class vectors.
    """

    precision: Precision
    evaluator: Any
    run_identity: dict | None = None
    class_rows: list[int] | None = None
    class_vectors: ClassVectors | None = None
    reads_labels = True
    figure_titles: ClassVar[dict[str, str]] = {
        "acc": "training accuracy",
        "agreement": "agreement with the teacher",
        "ce": "cross-entropy",
    }
    tracker = Tracker()
    learned_file = LEARNED  # of the learned prompts in the run's folder
    _figures: RunningFigures  # of an epoch
    _in_epochs = False
    _step: Step
    _row: dict[str, Any]  # of metrics.csv, of the last epoch

    def build_data_loader(self) -> None:
        """Build the loaders of `ImageDataset`."""
        self.use_data(self.cfg)

    def use_data(self, cfg: CfgNode) -> None:
        """Set the attributes of Dassl's `build_data_loader`, with loaders of `ImageDataset`.

        Args:
            cfg: the configuration that describes the data.

        Raises:
            ConfigError: the batch size or the test sampler is not suitable.
            ValueError: a user's own classes have names with identical tokens.
        """
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = loaders.workers(cfg.DATALOADER.NUM_WORKERS)
        self.dm = DataManager(cfg, dataset_wrapper=ImageDataset)
        self.train_loader_x = loaders.share_of_training(self.dm.train_loader_x)
        self.train_loader_u = self.dm.train_loader_u
        self.val_loader = loaders.share_of_test(self.dm.val_loader)
        self.test_loader = loaders.share_of_test(self.dm.test_loader)
        self.num_classes, self.num_source_domains = self.dm.num_classes, self.dm.num_source_domains
        self.lab2cname = self.dm.lab2cname
        check = getattr(self.dm.dataset, "check_class_names", None)  # this package's readers have it
        if check is not None:
            check(tokenizer_by_name(self.cfg.MODEL.BACKBONE.NAME).encode)

    def data_seen(self) -> list[dict]:
        """Return the provenance of the training data, one item per phase."""
        return [provenance.training_item(self)]

    def before_train(self) -> None:
        """Keep small images decoded for all epochs, and write the provenance."""
        if self.max_epoch > 1:
            self.train_loader_x = loaders.keeping(self.train_loader_x, self.cfg.DATALOADER.NUM_WORKERS < 0)
        self.waited = self.trained = 0.0
        super().before_train()
        self._in_epochs = True
        if self.get_model_names():
            self._step = accelerated(self, self.gradients, self._learner)
        parallel.on_main(lambda: provenance.keep(self.output_dir, self.data_seen()))

    def run_epoch(self) -> None:
        """Measure the time spent waiting for images, and report the epoch's means."""
        loader, start = self.train_loader_x, time.perf_counter()
        self.train_loader_x = timed = loaders.TimedLoader(loader, self.device)
        self._figures, rate = RunningFigures(), self.optim.param_groups[0]["lr"]
        try:
            super().run_epoch()
        finally:
            self.train_loader_x = loader
        seconds = time.perf_counter() - start
        self.waited, self.trained = self.waited + timed.waited, self.trained + seconds
        logger.info("Waited for data: %.1f%% of the epoch's %.1f s", 100 * timed.waited / seconds, seconds)
        self._report_epoch(rate, seconds)

    def _report_epoch(self, rate: float, seconds: float) -> None:
        done, last = self.epoch + 1, self.epoch + 1 == self.max_epoch
        means = {name: total / self.num_batches for name, total in self._figures.totals.items()}
        self._row = {"epoch": done, **means, "learning_rate": rate, "seconds": round(seconds, 3)}
        self._keep_row()
        figures = [
            f"{self.figure_titles.get(name, name)} {mean / (100 if name in _SHARES else 1):.2f}"
            for name, mean in means.items()
        ]
        report = announce if done % EPOCHS_PER_LINE == 0 or last else logger.info
        report("%s", "  ".join([f"epoch {done}/{self.max_epoch}", *figures]))

    def _keep_row(self) -> None:
        parallel.on_main(lambda: append_epoch(Path(self.output_dir), self._row))

    def after_epoch(self) -> None:
        """Send the epoch's figures to the tracker."""
        super().after_epoch()
        self.tracker.log(self._row)

    def after_train(self) -> None:
        """Keep the learned prompts as safetensors.

        The share of the time spent waiting for images is logged.
        """
        self._in_epochs = False
        parallel.on_main(self._keep_learned)
        super().after_train()
        if self.trained:
            share = 100 * self.waited / self.trained
            logger.info("Waited for data: %.1f%% of the training's %.1f s", share, self.trained)

    def _keep_learned(self) -> None:
        """Write phase 2's learned prompts: the best epoch's if validation chooses it, else the last one's."""
        if self.learned_file:
            (name,) = self.get_model_names()
            best = Path(self.output_dir) / name / BEST
            chosen = self.cfg.TEST.FINAL_MODEL == "best_val" and best.is_file()
            state = read_checkpoint(best)["state_dict"] if chosen else self._learned_state(name)
            save_learned(state, Path(self.output_dir) / self.learned_file, self._described_classes())

    def _learned_state(self, name: str) -> dict[str, Tensor]:
        """Return the learned parameters, with the class vectors if they are kept."""
        kept = {} if self.class_vectors is None else {TENSOR: self.class_vectors.vectors}
        return {**self._models[name].state_dict(), **kept}

    def _described_classes(self) -> dict[str, list[str]]:
        return {} if self.class_vectors is None else {NAMES: list(self.class_vectors.names)}

    def before_epoch(self) -> None:
        """Let the dataset augment for this epoch."""
        super().before_epoch()
        self.train_loader_x.dataset.epoch = self.epoch

    def register_learner(self, name: str, learner: nn.Module, precision: Precision) -> None:
        """Build the optimiser of a learner, and register both with Dassl to be saved and loaded.

        Args:
            name: the checkpoints' folder.
            learner: the module whose parameters are trained.
            precision: the precision of its parameters and steps.
        """
        self.precision = precision
        self._figures = RunningFigures()
        learner.to(self.device, precision.prompts)
        if self.cfg.MODEL.INIT_WEIGHTS:
            load_learner(learner, self.cfg.MODEL.INIT_WEIGHTS)
        self.optim = fused(build_optimizer(learner, self.cfg.OPTIM), self.device)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision.scaled)
        self.register_model(name, learner, self.optim, self.sched)
        self.shared_loss = parallel.shared_loss(self, learner)
        self._step = self.gradients
        self._learner = learner
        total = sum(parameter.numel() for parameter in learner.parameters())
        names = ", ".join(key for key, _ in learner.named_parameters())
        logger.info("Learning %s parameters in %s (%s)", f"{total:,}", name, names)

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and further figures to report."""
        raise NotImplementedError

    def on_device(self, batch: dict) -> dict:
        """Return a batch with everything on the device that `compute_loss` needs."""
        copied = {key: batch[key].to(self.device) for key in ("img", "label") if key in batch}
        return {**batch, **copied}

    def gradients(self, batch: dict) -> dict[str, Tensor]:
        """Compute the gradients of a batch on the device; return its loss and figures."""
        self.optim.zero_grad()
        with self.precision.context(self.device):
            loss, figures = (self.shared_loss or self.compute_loss)(batch)
        self.scaler.scale(loss).backward()
        return {"loss": loss.detach(), **{name: figure.detach() for name, figure in figures.items()}}

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """Train one step on a batch.

        Nothing waits for the device, except every `TRAIN.PRINT_FREQ` batches and at the end of an epoch.

        Returns:
            The means of the loss and the figures since they were last read; empty for a batch that does not read them.

        Raises:
            DivergedError: the loss or the gradients were not finite since they were last read.
        """
        if not self.reads_labels:
            batch = {key: value for key, value in batch.items() if key != "label"}
        figures = self._step(self.on_device(batch))
        self.scaler.step(self.optim)
        self._figures.add(figures, self._update_scale())
        done, every, last = self.batch_idx + 1, self.cfg.TRAIN.PRINT_FREQ, self.batch_idx + 1 == self.num_batches
        summary = self._read_figures() if last or (every > 0 and done % every == 0) else {}
        if last:
            self.finish_epoch()
        return summary

    def _update_scale(self) -> Tensor | None:
        """Update the loss scale; return whether the step was skipped because scaled gradients overflowed float16."""
        if not self.scaler.is_enabled():
            return None
        before = self.scaler._get_scale_async().clone()  # type: ignore[union-attr]  # `get_scale` waits for the device
        self.scaler.update()
        return self.scaler._get_scale_async() < before  # type: ignore[operator]

    def _read_figures(self) -> dict[str, float]:
        """Return the means of the figures since they were last read.

        Raises:
            DivergedError: a loss was not finite, or gradients are not, however the loss is scaled.
        """
        before = self._figures.skipped
        means = self._figures.read()
        self.skipped += self._figures.skipped - before
        if self._figures.finite < self._figures.steps:
            total = self._figures.totals["loss"]
            raise DivergedError(self.diverged(f"the loss is {total}", self._figures.finite + 1))
        if self._figures.skipped > before and self.scaler.get_scale() < 1:
            raise DivergedError(self.diverged("the gradients are not finite, however the loss is scaled"))
        return means

    def finish_epoch(self) -> None:
        """Step the learning rate after an epoch's last step."""
        self.update_lr()
        if self.skipped:
            logger.warning("Skipped %d steps so far: their gradients overflowed float16", self.skipped)

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Return the images (B, 3, R, R) and labels (B,) on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def parse_batch_test(self, batch: dict) -> tuple[Any, Tensor]:
        """Return the images (B, 3, R, R), or their features, on the device.

        The labels (B,) are unchanged.
        """
        image = Encoded(batch["features"]) if "features" in batch else batch["img"].to(self.device)
        return image, batch["label"]

    def model_inference(self, image: Tensor | Encoded) -> Tensor:
        """Return logits (B, C) in float32 of images (B, 3, R, R)."""
        with self.precision.context(self.device):
            return self.model(image).float()

    def test(self, split: str | None = None) -> float:
        """Evaluate; several processes share the images, and all return the result.

        The result of an epoch's validation, for which "val" is given, is added to its row of metrics.csv.
        """
        self.tested_split = split or self.cfg.TEST.SPLIT
        with self._evaluating("val_loader" if self.tested_split == "val" and self.val_loader else "test_loader"):
            result = super().test(split)
        if split == "val":
            self._row["validation"] = float(result)
            self._keep_row()
        return result

    @contextlib.contextmanager
    def _evaluating(self, name: str) -> Iterator[None]:
        """Prefetch a loader's images, or read their features, and collect the outputs of all ranks while the block runs."""
        loader = getattr(self, name)
        kept = {name: loader, "evaluator": self.evaluator}
        self.evaluator = parallel.GatheringEvaluator(self.evaluator)
        batches = loaders.TimedLoader(loader, self.device, ("img",))
        cache = features.test_cache(self, loader) if self._tower_is_final() else None
        encoded = None if cache is None else features.FeatureLoader(batches, cache, self._encode, self.device)
        setattr(self, name, encoded or batches)
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def _tower_is_final(self) -> bool:
        """Return whether the image tower's features belong to more than this run's current state."""
        trained = any(tokens.requires_grad for stack in self.model.vision_stacks() for tokens in stack)
        return self.model.has_text_prompts_only() and (not trained or not self._in_epochs)

    def _encode(self, image: Tensor) -> Tensor:
        with self.precision.context(self.device):
            return self.model.encode(image)

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Write the checkpoints atomically, on rank 0.

        Args:
            epoch: counted from 0.
            directory: the run's folder.
            is_best: also write `model-best.pth.tar`.
            val_result: the result on the validation images.
            model_name: the file's name; empty: `model.pth.tar-<epoch + 1>`.
        """

        def write() -> None:
            for name in self.get_model_names():
                write_checkpoint(Path(directory) / name, self._content(name, epoch, val_result), model_name, is_best)

        parallel.on_main(write)

    def _content(self, name: str, epoch: int, val_result: float | None) -> dict[str, Any]:
        optim, sched = self._optims[name], self._scheds[name]
        return {
            "state_dict": self._learned_state(name),
            **self._described_classes(),
            "epoch": epoch + 1,
            "optimizer": None if optim is None else plain(optim.state_dict()),
            "scheduler": None if sched is None else plain(sched.state_dict()),
            "val_result": None if val_result is None else float(val_result),
            "random_state": get_rng_state(),
            **({} if self.run_identity is None else {"identity": json.dumps(self.run_identity)}),
        }

    def init_writer(self, log_dir: str) -> None:
        """Start the TensorBoard log, on rank 0."""
        if parallel.is_main():
            super().init_writer(log_dir)

    def load_model(self, directory: str | None, epoch: int | None = None) -> None:
        """Load what was learned from a run's folder.

        Args:
            directory: the folder; None: nothing is loaded (LASP's train.py asks for it before it trains).
            epoch: the epoch whose checkpoint is loaded; None: the best one if there is one, else the last.

        Raises:
            FileNotFoundError: the checkpoint does not exist.
            ValueError: it does not fit.
        """
        if directory is None:
            logger.info("No checkpoint given: nothing is loaded")
            return
        if self.get_model_names() and not directory:
            raise FileNotFoundError("--model-dir: not given; expected the folder of the run to evaluate")
        for name in self.get_model_names():
            load_learner(self._models[name], find_checkpoint(Path(directory) / name, epoch), self.class_rows)
