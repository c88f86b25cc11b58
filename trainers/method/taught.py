"""What trainers with a teacher share: its features of a batch, computed or read from a cache."""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from yacs.config import CfgNode

from ..engine.precision import Precision
from .feature_cache import on_device
from .teacher_cache import TeacherCache, described_images
from .teachers import Teacher, TeacherTransform


def teacher_transforms(cfg: CfgNode, teacher: Teacher) -> nn.ModuleList:
    """Return the modules that turn the student's batches into those of the teacher's members."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    if "normalize" in cfg.INPUT.TRANSFORMS:
        mean, std = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    return nn.ModuleList(TeacherTransform(member, cfg.INPUT.SIZE[0], mean, std) for member in teacher.members)


class Taught:
    """A mixin for a trainer that learns from a teacher.

    Attributes:
        teacher: the teacher.
        transforms: from the student's batches to those of each of the teacher's members.
        caches: each member's features; empty: they are computed for each batch.
    """

    teacher: Teacher
    transforms: Any  # an nn.ModuleList of TeacherTransform
    caches: Sequence[TeacherCache] = ()
    cfg: CfgNode
    precision: Precision
    device: torch.device
    train_loader_x: Any
    max_epoch: int

    def teacher_features(self, index: Tensor, image: Tensor) -> Tensor:
        """Return the teacher's normalised features (B, E) of a batch, from the caches if there are any.

        Args:
            index: (B,), the images' indices, on the CPU.
            image: (B, 3, R, R), the student's images.
        """
        parts = [self._features_of(number, index, image) for number in range(len(self.transforms))]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _features_of(self, number: int, index: Tensor, image: Tensor) -> Tensor:
        """Return the features (B, E) of one member."""

        def compute() -> Tensor:
            return self.teacher.members[number].image_features(self.transforms[number](image))

        if not self.caches:
            return compute()
        found = self.caches[number].features(index, self.train_loader_x.dataset.view, compute)
        return on_device(found, self.device)

    def on_device(self, batch: dict) -> dict:
        """Add the teacher's features from the caches, if there are any, as "teacher"."""
        batch = super().on_device(batch)  # type: ignore[misc]  # of the trainer
        if not self.caches:
            return batch
        with torch.no_grad(), self.precision.context(self.device):
            return {**batch, "teacher": self.teacher_features(batch["index"], batch["img"])}

    def known_or_computed(self, batch: dict) -> Tensor:
        """Return the teacher's normalised features (B, E) of a batch on the device."""
        if "teacher" in batch:
            return batch["teacher"]
        return self.teacher_features(batch["index"], batch["img"].to(self.device))

    def caches_in(self, folder: str, names: Sequence[str], views: int) -> list[TeacherCache]:
        """Open the caches of the members' features in this run.

        Args:
            folder: the folder of their files.
            names: the members' names.
            views: number of augmentations of each image; 0: as many as epochs.

        Raises:
            CacheError: one cannot be written or is damaged.
        """
        members = zip(self.teacher.members, self.transforms, names, strict=True)
        return [self._cache_of(folder, views, *member) for member in members]

    def _cache_of(
        self, folder: str, views: int, teacher: Teacher, transform: TeacherTransform, name: str
    ) -> TeacherCache:
        """Open the cache of one member.

        Raises:
            CacheError: it cannot be written or is damaged.
        """
        cfg = self.cfg
        paths = [item.impath for item in self.train_loader_x.dataset.data_source]
        settings = {
            "teacher": name,
            "teacher_weights": teacher.fingerprint(),
            "view": transform.settings(),
            "dataset": cfg.DATASET.NAME,
            "image_list": described_images(paths, cfg.DATASET.ROOT),
            "input": cfg.INPUT,
            "seed": cfg.SEED,
            "precision": self.precision.name,
            "computed_by": [torch.__version__, torchvision.__version__, self.device.type],
        }
        with torch.no_grad(), self.precision.context(self.device):
            size = teacher.size
            width = teacher.image_features(torch.zeros(1, 3, size, size, device=self.device)).shape[1]
        return TeacherCache(folder, settings, len(paths), views or self.max_epoch, width)
