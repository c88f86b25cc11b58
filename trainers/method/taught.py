"""What trainers with a teacher share: its features of a batch, computed or read from a cache."""

from typing import Any

import torch
import torchvision
from torch import Tensor
from yacs.config import CfgNode

from ..engine.precision import Precision
from .feature_cache import on_device
from .teacher_cache import TeacherCache, described_images
from .teachers import Teacher, TeacherTransform


def teacher_transform(cfg: CfgNode, teacher: Teacher) -> TeacherTransform:
    """Return the module that turns the student's batches into the teacher's."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    if "normalize" in cfg.INPUT.TRANSFORMS:
        mean, std = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    return TeacherTransform(teacher, cfg.INPUT.SIZE[0], mean, std)


class Taught:
    """A mixin for a trainer that learns from a teacher.

    Attributes:
        teacher: the teacher.
        transform: from the student's batches to the teacher's.
        cache: the teacher's features; None: they are computed for each batch.
    """

    teacher: Teacher
    transform: TeacherTransform
    cache: TeacherCache | None = None
    cfg: CfgNode
    precision: Precision
    device: torch.device
    train_loader_x: Any
    max_epoch: int

    def teacher_features(self, index: Tensor, image: Tensor) -> Tensor:
        """Return the teacher's normalised features (B, E) of a batch, from the cache if there is one.

        Args:
            index: (B,), the images' indices, on the CPU.
            image: (B, 3, R, R), the student's images.
        """

        def compute() -> Tensor:
            return self.teacher.image_features(self.transform(image))

        if self.cache is None:
            return compute()
        return on_device(self.cache.features(index, self.train_loader_x.dataset.view, compute), self.device)

    def on_device(self, batch: dict) -> dict:
        """Add the teacher's features from the cache, if there is one, as "teacher"."""
        batch = super().on_device(batch)  # type: ignore[misc]  # of the trainer
        if self.cache is None:
            return batch
        with torch.no_grad(), self.precision.context(self.device):
            return {**batch, "teacher": self.teacher_features(batch["index"], batch["img"])}

    def known_or_computed(self, batch: dict) -> Tensor:
        """Return the teacher's normalised features (B, E) of a batch on the device."""
        if "teacher" in batch:
            return batch["teacher"]
        return self.teacher_features(batch["index"], batch["img"].to(self.device))

    def cache_in(self, folder: str, name: str, views: int) -> TeacherCache:
        """Open the cache of the teacher's features in this run.

        Args:
            folder: the folder of its file.
            name: the teacher's name.
            views: number of augmentations of each image; 0: as many as epochs.

        Raises:
            CacheError: it cannot be written or is damaged.
        """
        cfg = self.cfg
        paths = [item.impath for item in self.train_loader_x.dataset.data_source]
        settings = {
            "teacher": name,
            "teacher_weights": self.teacher.fingerprint(),
            "view": self.transform.settings(),
            "dataset": cfg.DATASET.NAME,
            "image_list": described_images(paths, cfg.DATASET.ROOT),
            "input": cfg.INPUT,
            "seed": cfg.SEED,
            "precision": self.precision.name,
            "computed_by": [torch.__version__, torchvision.__version__, self.device.type],
        }
        with torch.no_grad(), self.precision.context(self.device):
            size = self.teacher.size
            width = self.teacher.image_features(torch.zeros(1, 3, size, size, device=self.device)).shape[1]
        return TeacherCache(folder, settings, len(paths), views or self.max_epoch, width)
