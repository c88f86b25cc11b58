"""Caches of a frozen image tower's features, shared by seeds and hosts with the same tower and images."""

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import PIL
import torch
import torchvision
from torch import Tensor

from ..engine import clip_sizes
from ..engine.prompts import Stack
from ..method.feature_cache import FeatureCache, described_images, on_device
from ..method.identity import backbone_fingerprint
from ..version import __version__
from . import parallel
from .loaders import TimedLoader, Wrapped

logger = logging.getLogger(__name__)


class TestFeatures(FeatureCache):
    """Features of an evaluation's images."""

    title, option = "feature cache", "TEST.FEATURES"


class TrainingFeatures(FeatureCache):
    """Features of a training set's augmented images."""

    title, option = "feature cache", "TRAIN.FEATURES"


def computed_dtype(trainer: Any) -> torch.dtype:
    """Return the dtype of the image tower's output in a trainer's precision."""
    return trainer.precision.autocast or next(trainer.model.clip.visual.parameters()).dtype


def described_tower(trainer: Any, stacks: list[Stack]) -> dict:
    """Return everything that determines the features of an image, as JSON values.

    Args:
        trainer: a trainer whose model is a `PromptedCLIP`.
        stacks: the prompt tokens of each layer.

    Raises:
        OSError, ValueError: the weights of the backbone cannot be found.
    """
    device = trainer.device
    if device.type == "cuda":
        unit = [torch.cuda.get_device_name(device), torch.backends.cuda.matmul.allow_tf32]
    else:
        unit = [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), torch.backends.mkldnn.enabled]
    return {
        "backbone": backbone_fingerprint(trainer.cfg.MODEL.BACKBONE.NAME),
        "dtype": f"{computed_dtype(trainer)} {next(trainer.model.clip.visual.parameters()).dtype}",
        "precision": trainer.precision.name,
        "prompts": _digest(stacks),
        "computed_by": [torch.__version__, torchvision.__version__, PIL.__version__, __version__, device.type, *unit],
    }


def _digest(stacks: list[Stack]) -> str:
    digest = hashlib.sha256()
    for stack in filter(len, stacks):
        digest.update(f"{len(stack)} ".encode())
        for tokens in stack:
            digest.update(f"{tokens.dtype} {tuple(tokens.shape)} ".encode())
            digest.update(tokens.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _opened(kind: type[FeatureCache], trainer: Any, folder: str, loader: Any, views: int, more: dict) -> Any:
    """Open a cache; return None and log a warning if that is not possible, since a run does not need it."""
    cfg, stacks = trainer.cfg, more.pop("stacks")
    paths = [item.impath for item in loader.dataset.data_source]
    try:
        settings = {
            **described_tower(trainer, stacks),
            "dataset": cfg.DATASET.NAME,
            "image_list": described_images(paths, cfg.DATASET.ROOT),
            "transform": repr(loader.dataset.transform),
            **more,
        }
        width = clip_sizes(trainer.model.clip).embedding
        return kind(folder, settings, len(paths), views, width, computed_dtype(trainer))
    except (OSError, ValueError) as error:
        logger.warning("Image features are not kept: %s", error)
        return None


def test_cache(trainer: Any, loader: Any) -> TestFeatures | None:
    """Open the cache of the features of an evaluation's images.

    Args:
        trainer: the trainer, whose image tower does not learn during the evaluation.
        loader: the loader of the images.

    Returns:
        The cache; None if there is no folder for it, or it cannot be used.
    """
    cfg = trainer.cfg
    if not cfg.TEST.FEATURES:
        return None
    more = {"stacks": trainer.model.vision_stacks(), "batch": cfg.DATALOADER.TEST.BATCH_SIZE}
    cache = _opened(TestFeatures, trainer, cfg.TEST.FEATURES, loader, 1, more)
    if cache is not None and cache.read_only and not cache.complete():
        logger.warning("Image features are not read: %s is read-only and not complete", cache.path)
        return None
    return cache


def training_cache(trainer: Any, stacks: list[Stack], views: int) -> TrainingFeatures | None:
    """Open the cache of the features of the training images' augmentations.

    Args:
        trainer: the trainer.
        stacks: the prompt tokens of the image tower, all frozen.
        views: number of augmentations of each image; 0: as many as epochs.

    Returns:
        The cache; None if there is no folder for it, it cannot be used, or the augmentations are not reproducible.
    """
    cfg = trainer.cfg
    if not cfg.TRAIN.FEATURES or cfg.SEED < 0:
        return None
    more = {
        "stacks": stacks,
        "seed": cfg.SEED,
        "batch": [cfg.DATALOADER.TRAIN_X.BATCH_SIZE, parallel.size()],
    }
    views = views or trainer.max_epoch
    cache = _opened(TrainingFeatures, trainer, cfg.TRAIN.FEATURES, trainer.train_loader_x, views, more)
    return None if cache is None or cache.read_only else cache


class FeatureLoader(Wrapped):
    """An evaluation's batches with "features" from a cache in place of "img".

    Images are read only to fill it.

    Args:
        loader: the loader of the images.
        cache: of their features.
        encode: computes the features (B, E) of images (B, 3, R, R).
        device: where the features are needed.
    """

    def __init__(
        self, loader: TimedLoader, cache: FeatureCache, encode: Callable[[Tensor], Tensor], device: torch.device
    ):
        super().__init__(loader)
        self.cache, self.encode, self.device = cache, encode, device

    def __iter__(self) -> Iterator[dict]:
        for batch in self._known() if self.cache.complete() else self.loader:
            features = self.cache.features(batch["index"], 0, functools.partial(self._computed, batch))
            yield {"features": on_device(features, self.device), "label": batch["label"], "index": batch["index"]}

    def _computed(self, batch: dict) -> Tensor:
        return self.encode(batch["img"])

    def _known(self) -> Iterator[dict]:
        items = self.dataset.data_source
        for index in self.loader.loader.batch_sampler or ():
            yield {"index": torch.tensor(index), "label": torch.tensor([items[i].label for i in index])}
