"""A finished run as a classifier: `caspl.load(folder).predict(["cat.jpg"])`."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from dassl.data.transforms import build_transform
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose
from yacs.config import CfgNode

from ..config import ConfigError
from ..engine import PromptedCLIP, PromptGroup
from ..engine.precision import Precision
from ..experiments.setup import assemble
from ..hosts.base import HostTrainer
from ..method.boosting import CasPL
from ..method.prompt_file import FILE_NAME, check_fits, load_boosting
from ..training import provenance
from ..training.checkpoints import find_checkpoint, load_learner
from ..training.learned_file import LEARNED
from ..training.run import own_class
from .images import Batch, as_rgb, batches, open_image
from .source import local_folder

logger = logging.getLogger(__name__)

Input = str | Path | Image.Image


@dataclass(frozen=True)
class Prediction:
    """The classes that a classifier finds most likely for an image.

    Attributes:
        label: the most likely class; None if its probability is below `unknown_below`.
        top: (class name, probability from 0 to 1) pairs, most likely first.
    """

    label: str | None
    top: list[tuple[str, float]]


class Classifier(nn.Module):
    """A CLIP with the prompts that a run has learned, for a list of classes.

    Args:
        model: the prompted CLIP, in eval mode.
        class_names: C names, in the order of the logits.
        preprocess: maps a PIL image to a tensor (3, R, R), as in the run's evaluation.
        precision: the arithmetic of the run's evaluation.
        remake: builds the same model for other class names; raises `ConfigError` if that is not possible.
        batch_size: the number of images that the run's evaluation computes at a time.
        num_workers: the processes that read images for the run's evaluation; -1: chosen by the machine's cores.
    """

    def __init__(
        self,
        model: PromptedCLIP,
        class_names: Sequence[str],
        preprocess: Compose,
        precision: Precision,
        remake: Callable[[Sequence[str]], PromptedCLIP],
        batch_size: int = 100,
        num_workers: int = -1,
    ):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.class_names = list(class_names)
        self.preprocess = preprocess
        self.precision = precision
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._remake = remake
        self.eval()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.clip.logit_scale.device

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C), in float32, of preprocessed images (B, 3, R, R)."""
        with self.precision.context(self.device):
            return self.model(images.to(self.device)).float()

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Return normalised image features (B, E), in float32, of preprocessed images (B, 3, R, R)."""
        with self.precision.context(self.device):
            return self.model.image_features(images.to(self.device)).float()

    @torch.no_grad()
    def encode_text(self, names: Sequence[str] | None = None) -> Tensor:
        """Return the normalised features (C, E), in float32, of classes.

        Args:
            names: the classes; None: the classifier's own.

        Raises:
            ConfigError: the host's prompts belong to its own classes or to single images.
        """
        self.check_constant_classes()
        model = self.model if names is None else self.with_classes(names).model
        with self.precision.context(self.device):
            return model.class_features().float()

    def check_constant_classes(self) -> None:
        """Raise `ConfigError` if the class features differ between images, as CoCoOp's do."""
        if type(self.model).forward is not PromptedCLIP.forward:
            raise ConfigError(
                f"{type(self.model).__name__}: its class features depend on the image; expected a host with one feature a "
                "class. Use its logits instead"
            )

    def with_classes(self, names: Sequence[str]) -> "Classifier":
        """Return a classifier with the same prompts for other classes.

        Raises:
            ConfigError: the learned prompts belong to single classes (class-specific context).
            ValueError: the list is empty, or a name is too long.
        """
        if not names:
            raise ValueError("class names: none given; expected at least one")
        reading = (self.batch_size, self.num_workers)
        return Classifier(self._remake(names), names, self.preprocess, self.precision, self._remake, *reading)

    def predict(
        self,
        inputs: Input | Sequence[Input],
        top: int = 5,
        unknown_below: float | None = None,
        batch_size: int = 0,
    ) -> list[Prediction]:
        """Classify images.

        Args:
            inputs: paths or PIL images, or one of them.
            top: how many classes to return for each image.
            unknown_below: the probability, from 0 to 1, below which an image has no label.
            batch_size: how many images are computed at a time; 0: as many as in the run's evaluation, so that the same
                images give the same bits on a CPU.

        Returns:
            A prediction for each input.

        Raises:
            ImageError: an image cannot be read.
        """
        batch_size = batch_size or self.batch_size
        given = [inputs] if isinstance(inputs, str | Path | Image.Image) else list(inputs)
        found: list[Prediction] = []
        for start in range(0, len(given), batch_size):
            images = [self._tensor(each) for each in given[start : start + batch_size]]
            found += self.predictions(self(torch.stack(images)), top, unknown_below)
        return found

    def batches(self, paths: Sequence[Path], batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the images of files, preprocessed, in order.

        Unreadable ones are named instead.

        Args:
            paths: the files.
            batch_size: how many images come at a time; None: as many as in the run's evaluation.
        """
        return batches(paths, self.preprocess, batch_size or self.batch_size, self.num_workers)

    def predictions(self, logits: Tensor, top: int = 5, unknown_below: float | None = None) -> list[Prediction]:
        """Turn logits (B, C) into predictions."""
        values, indices = logits.softmax(dim=1).topk(min(top, len(self.class_names)), dim=1)
        found = []
        for row, order in zip(values.tolist(), indices.tolist(), strict=True):
            pairs = [(self.class_names[index], value) for index, value in zip(order, row, strict=True)]
            certain = unknown_below is None or pairs[0][1] >= unknown_below
            found.append(Prediction(pairs[0][0] if certain else None, pairs))
        return found

    def _tensor(self, given: Input) -> Tensor:
        return self.preprocess(as_rgb(given) if isinstance(given, Image.Image) else open_image(given))


def load(what: str | Path, backbone: str = "", device: str | torch.device = "cpu") -> Classifier:
    """Load a finished run as a classifier; no dataset is needed.

    Args:
        what: the run's folder, "local-dir:<folder>", or "hf-hub:<user>/<name>[@<revision>]".
        backbone: name or file of CLIP's weights; empty: as in the run.
        device: where the classifier is placed.

    Returns:
        The classifier, in eval mode. Its logits are those of the run's evaluation.

    Raises:
        ConfigError: the run's trainer has no classifier, or the backbone does not fit.
        FileNotFoundError: the folder or its checkpoint does not exist.
    """
    folder = local_folder(what)
    cfg = assemble([], ["MODEL.BACKBONE.NAME", backbone] if backbone else [], evaluated=folder)
    build = _phase_1 if cfg.TRAINER.NAME == "CasPL" else _phase_2
    classifier = build(cfg, folder, torch.device(device))
    logger.info("Loaded %s from %s: %d classes", cfg.TRAINER.NAME, folder, len(classifier.class_names))
    return classifier


def _phase_1(cfg: CfgNode, folder: Path, device: torch.device) -> Classifier:
    """Return the student with its boosting prompt alone."""
    group, info = load_boosting(folder / FILE_NAME)

    def remake(names: Sequence[str]) -> PromptedCLIP:
        model, _ = CasPL.build_classifier(cfg, names, device)
        model.cascade(group.to(device), cfg.TRAINER.CASPL.TEXT_ORDER)
        return model.eval().requires_grad_(False)

    model, precision = CasPL.build_classifier(cfg, info.class_names, device)
    check_fits(folder / FILE_NAME, group, info, model.clip.visual, model.clip)
    model.cascade(group.to(device), cfg.TRAINER.CASPL.TEXT_ORDER)
    return Classifier(model, info.class_names, _preprocess(cfg), precision, remake, *_reading(cfg))


def _phase_2(cfg: CfgNode, folder: Path, device: torch.device) -> Classifier:
    """Return a host, cascaded or alone."""
    host = own_class(cfg.TRAINER.NAME)
    if host is None or not issubclass(host, HostTrainer):
        raise ConfigError(
            f"TRAINER.NAME in {folder / 'config.yaml'}: {cfg.TRAINER.NAME!r}; expected one of this package's hosts, "
            "CasPL_<host> or CasPL. Other toolboxes' runs are evaluated in their toolbox"
        )
    names = provenance.kept(folder)[-1]["class_names"]
    model, precision = host.build_classifier(cfg, names, device)
    boosting = _boosting(cfg, folder, model)
    _cascade(model, boosting, cfg, device)
    model.prompt_learner.to(device, precision.prompts)
    load_learner(model.prompt_learner, _learned(folder, host))

    def remake(other: Sequence[str]) -> PromptedCLIP:
        if model.prompt_learner.belongs_to_classes:
            raise ConfigError(
                f"{cfg.TRAINER.NAME}: its learned context belongs to single classes; expected a context for all classes "
                "(CSC False). Train one without CSC for new classes"
            )
        with torch.random.fork_rng(devices=[]):  # its initial values are replaced
            made = host.remake(model, other, cfg).to(device)
        _cascade(made, boosting, cfg, device)
        made.prompt_learner.to(device, precision.prompts)
        made.prompt_learner.load_state_dict(model.prompt_learner.state_dict())
        return made.eval().requires_grad_(False)

    return Classifier(model, names, _preprocess(cfg), precision, remake, *_reading(cfg))


def _reading(cfg: CfgNode) -> tuple[int, int]:
    """Return how the run's evaluation reads images: how many at a time, by how many processes."""
    return cfg.DATALOADER.TEST.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS


def _preprocess(cfg: CfgNode) -> Compose:
    """Return the transform of the run's evaluation."""
    transform = build_transform(cfg, is_train=False)
    if transform is None:
        raise ConfigError("INPUT.NO_TRANSFORM: True; expected False, a classifier needs tensors of one size")
    return transform


def _learned(folder: Path, host: type[HostTrainer]) -> Path:
    """Return the file of the learned prompts: a run's checkpoint, or a shared run's safetensors."""
    if (folder / LEARNED).is_file() and not (folder / host.learner_name).is_dir():
        return folder / LEARNED
    return find_checkpoint(folder / host.learner_name, None)


def _boosting(cfg: CfgNode, folder: Path, model: PromptedCLIP) -> PromptGroup | None:
    if not cfg.TRAINER.NAME.startswith("CasPL"):
        return None
    group, info = load_boosting(folder / FILE_NAME)
    check_fits(folder / FILE_NAME, group, info, model.clip.visual, model.clip)
    return group


def _cascade(model: PromptedCLIP, group: PromptGroup | None, cfg: CfgNode, device: torch.device) -> None:
    order = cfg.TRAINER.CASPL.TEXT_ORDER
    if group is not None and cfg.TRAINER.CASPL.JOINT:
        model.join(copy.deepcopy(group).to(device), order)  # its values are in the learner's file
    elif group is not None:
        model.cascade(group.to(device), order)
    model.layout = model.layout.to(device)
