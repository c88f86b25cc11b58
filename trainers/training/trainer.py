"""What all trainers of this package share: the step under a precision, and loading what was learned."""

import logging
import math
import time
from pathlib import Path

import torch
from dassl.data import DataManager
from dassl.engine import TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..engine.precision import Precision
from ..storage.tensors import read_checkpoint
from . import loaders, parallel, provenance
from .resume import FILE_NAME as PROGRESS
from .resume import DivergedError, Resumable

logger = logging.getLogger(__name__)

LEARNED = "adapting.safetensors"  # in a run's folder: what phase 2 has learned

# Saved by the CoOp family beside the context, made anew from the current class names.
_REMADE = ("token_prefix", "token_suffix")


class PromptTrainer(Resumable, TrainerX):
    """A Dassl trainer that learns a few prompt parameters around a frozen CLIP.

    A subclass calls `register_learner` at the end of `build_model` and implements `compute_loss`.

    Attributes:
        reads_labels: False: the batches that `compute_loss` gets have no labels.
    """

    precision: Precision
    reads_labels = True

    def build_data_loader(self) -> None:
        """Dassl's hook."""
        self.use_data(self.cfg)

    def use_data(self, cfg) -> None:
        """Set what Dassl's `build_data_loader` sets, with images that depend on no order of drawing."""
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = loaders.workers(cfg.DATALOADER.NUM_WORKERS)
        self.dm = DataManager(cfg, dataset_wrapper=loaders.KeepingDataset)
        self.train_loader_x = loaders.share_of_training(self.dm.train_loader_x)
        self.train_loader_u = self.dm.train_loader_u
        self.val_loader = loaders.share_of_test(self.dm.val_loader)
        self.test_loader = loaders.share_of_test(self.dm.test_loader)
        self.num_classes, self.num_source_domains = self.dm.num_classes, self.dm.num_source_domains
        self.lab2cname = self.dm.lab2cname

    def data_seen(self) -> list[dict]:
        """What training sees, an item a phase (see `ledger`)."""
        return [provenance.training_item(self)]

    def before_train(self) -> None:
        """Dassl's hook: note what the run is going to see; images that are small enough are decoded, once for all epochs."""
        if self.max_epoch > 1:
            self.train_loader_x = loaders.keeping(self.train_loader_x, self.cfg.DATALOADER.NUM_WORKERS < 0)
        self.waited = self.trained = 0.0
        super().before_train()
        parallel.on_main(lambda: provenance.keep(self.output_dir, self.data_seen()))

    def run_epoch(self) -> None:
        """Dassl's hook; measures how much of the time is spent waiting for images."""
        loader, start = self.train_loader_x, time.perf_counter()
        self.train_loader_x = watched = loaders.Watched(loader, self.device)
        try:
            super().run_epoch()
        finally:
            self.train_loader_x = loader
        seconds = time.perf_counter() - start
        self.waited, self.trained = self.waited + watched.waited, self.trained + seconds
        logger.info("Waited for data: %.1f%% of the epoch's %.1f s", 100 * watched.waited / seconds, seconds)

    def after_train(self) -> None:
        """Dassl's hook; then the run says how much of its training time it waited for images."""
        super().after_train()
        if self.trained:
            share = 100 * self.waited / self.trained
            logger.info("Waited for data: %.1f%% of the training's %.1f s", share, self.trained)

    def before_epoch(self) -> None:
        """Dassl's hook."""
        super().before_epoch()
        self.train_loader_x.dataset.epoch = self.epoch

    def register_learner(self, name: str, learner: nn.Module, precision: Precision) -> None:
        """Give the optimiser the parameters of `learner`, and register it with Dassl to be saved and loaded."""
        self.precision = precision
        learner.to(self.device, precision.prompts)
        if self.cfg.MODEL.INIT_WEIGHTS:
            load_learner(learner, self.cfg.MODEL.INIT_WEIGHTS)
        self.optim = build_optimizer(learner, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision.scaled)
        self.register_model(name, learner, self.optim, self.sched)
        self.shared_loss = parallel.shared_loss(self, learner)
        total = sum(parameter.numel() for parameter in learner.parameters())
        names = ", ".join(key for key, _ in learner.named_parameters())
        logger.info("Learning %s parameters in %s (%s)", f"{total:,}", name, names)

    def compute_loss(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and the figures to show beside it."""
        raise NotImplementedError

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step. Dassl calls it for each batch."""
        if not self.reads_labels:
            batch = {key: value for key, value in batch.items() if key != "label"}
        with self.precision.context(self.device):
            loss, figures = (self.shared_loss or self.compute_loss)(batch)
        value, *others = parallel.averaged([loss, *figures.values()])
        if not math.isfinite(value):
            raise DivergedError(self.diverged(f"the loss is {value}"))
        self.optim.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optim)
        self._update_scale()
        if self.batch_idx + 1 == self.num_batches:
            self.finish_epoch()
        return {"loss": value} | dict(zip(figures, others, strict=True))

    def _update_scale(self) -> None:
        """Count a step that the scaler skipped, because scaled gradients overflowed float16."""
        before = self.scaler.get_scale()
        self.scaler.update()
        if self.scaler.get_scale() >= before:
            return
        self.skipped += 1
        if self.scaler.get_scale() < 1:
            raise DivergedError(self.diverged("the gradients are not finite, however the loss is scaled"))

    def finish_epoch(self) -> None:
        """What happens behind the last step of an epoch."""
        self.update_lr()
        if self.skipped:
            logger.warning("%d steps were skipped so far: their gradients overflowed float16", self.skipped)

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Images (B, 3, R, R) and labels (B,), on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def model_inference(self, image: Tensor) -> Tensor:
        """Logits (B, C) in float32."""
        with self.precision.context(self.device):
            return self.model(image).float()

    def test(self, split: str | None = None) -> float:
        """Dassl's; several processes share the test set, and all get the result."""
        if parallel.size() == 1:
            return super().test(split)
        evaluator = self.evaluator
        self.evaluator = parallel.GatheringEvaluator(evaluator)
        try:
            return super().test(split)
        finally:
            self.evaluator = evaluator

    def save_model(self, *args, **kwargs) -> None:
        """Dassl's; of several processes one writes, and the others wait for it."""
        save = super().save_model
        parallel.on_main(lambda: save(*args, **kwargs))

    def init_writer(self, log_dir: str) -> None:
        """Dassl's; of several processes one writes."""
        if parallel.is_main():
            super().init_writer(log_dir)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load what was learned from a run's folder.

        Args:
            directory: the folder.
            epoch: which epoch's checkpoint; None: the best one, or else the last one.

        Raises:
            FileNotFoundError, ValueError: there is none, or it does not fit.
        """
        if self.get_model_names() and not directory:
            raise FileNotFoundError("no folder to load from: give the folder of the run to evaluate as --model-dir")
        for name in self.get_model_names():
            load_learner(self._models[name], find_checkpoint(Path(directory) / name, epoch))


def find_checkpoint(folder: Path, epoch: int | None) -> Path:
    """The checkpoint in `<run>/<registered name>`: of an epoch, or the best, or the last.

    Raises:
        FileNotFoundError: it is not there; says what is.
    """
    if epoch is not None:
        path = folder / f"model.pth.tar-{epoch}"
    elif (folder / "model-best.pth.tar").is_file() or not (folder / "checkpoint").is_file():
        path = folder / "model-best.pth.tar"
    else:
        path = folder / (folder / "checkpoint").read_text(errors="replace").strip().replace("\0", "?")
    if not path.is_file():
        if (folder.parent / PROGRESS).is_file():
            raise FileNotFoundError(f"the run in {folder.parent} is not finished: give its command again, it goes on")
        there = ", ".join(sorted(p.name for p in folder.glob("model*"))) or "nothing"
        raise FileNotFoundError(
            f"no checkpoint at {path} (found there: {there}): train first, or mend --model-dir/--load-epoch"
        )
    return path


def _tensors(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not readable as safetensors ({error}); expected learned prompts") from error


def load_learner(learner: nn.Module, path: str | Path) -> None:
    """Load a learner's parameters from a checkpoint in Dassl's layout, ours or the original repository's.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it cannot be read, or its tensors are not those of the learner.
    """
    content = {"state_dict": _tensors(path)} if Path(path).suffix == ".safetensors" else read_checkpoint(path)
    content = content if isinstance(content, dict) else {}
    state = content.get("state_dict", content)
    state = state if isinstance(state, dict) else {}
    state = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if any(key.startswith("prompt_learner.") for key in state):  # MaPLe's own repository saves the whole model
        state = {
            key.removeprefix("prompt_learner."): v for key, v in state.items() if key.startswith("prompt_learner.")
        }
    state = {key: value for key, value in state.items() if key not in _REMADE}
    wanted = learner.state_dict()
    if not state or set(state) != set(wanted):
        raise ValueError(
            f"{path} holds {sorted(state) or 'no tensors'}, expected {sorted(wanted)}: it was saved by another "
            "trainer, or with another prompt depth; evaluate with the configuration that it was trained with"
        )
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise ValueError(
                f"{path}: {key} has shape {tuple(value.shape)}, expected {tuple(wanted[key].shape)}: it was trained "
                "with other prompt lengths, another backbone, or (class-specific context) for other classes"
            )
        if value.is_floating_point() != wanted[key].is_floating_point():
            raise ValueError(f"{path}: {key} is of type {value.dtype}, expected {wanted[key].dtype}: train again")
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {key} has values that are not finite numbers: the training had diverged")
    learner.load_state_dict(state)
    logger.info("Loaded %d tensors (epoch %s) from %s", len(state), content.get("epoch", "unknown"), path)
