"""The interface of a teacher."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...backbones import files_of

KEY = "TRAINER.CASPL.TEACHER.BACKBONE"

kinds: dict[str, type["Teacher"]] = {}  # by the prefix of their names


class Teacher(nn.Module):
    """A frozen classifier whose logits the student learns to predict, for a fixed list of classes.

    A subclass declares the prefix of its names, `class MyTeacher(Teacher, prefix="mine")` for "mine:<name>". It is
    built as `MyTeacher(name, class names, template, precision)` and implements `image_features`, `_class_features` and
    `scale`.

    Attributes:
        paths: the files of its weights.
        size: side of its square images in pixels.
        statistics: mean and standard deviation of its images' channels; None: those of the student's images.
        interpolation: how images of another size are resized, "bicubic" or "bilinear".
    """

    paths: tuple[Path, ...]
    size: int
    _classes: Tensor | None
    statistics: tuple[Sequence[float], Sequence[float]] | None = None
    interpolation = "bicubic"

    def __init_subclass__(cls, prefix: str | None = None, **kwargs):
        super().__init_subclass__(**kwargs)
        if prefix is not None:
            kinds[prefix] = cls

    def __init__(self, *args):
        super().__init__()
        self.register_buffer("_classes", None, persistent=False)  # moves with the weights; not in the fingerprint

    @classmethod
    def files(cls, name: str) -> tuple[Path, ...]:
        """Return the files that determine a teacher, without loading it.

        Raises:
            OSError, ValueError: they cannot be found.
        """
        return files_of(name)

    @property
    def members(self) -> Sequence["Teacher"]:
        """The teachers that it consists of: itself."""
        return [self]

    def image_features(self, image: Tensor) -> Tensor:
        """Return normalised features (B, E) of images (B, 3, size, size), in float32 or float64."""
        raise NotImplementedError

    def _class_features(self) -> Tensor:
        """Return normalised class features (C, E)."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        """Return the factor that turns cosines into logits."""
        raise NotImplementedError

    def class_features(self) -> Tensor:
        """Return normalised class features (C, E), computed once."""
        if self._classes is None:
            self._classes = self._class_features()
        return self._classes

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (B, C) of normalised image features (B, E)."""
        return self.scale() * features @ self.class_features().t()

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits (B, C) of images (B, 3, size, size)."""
        return self.logits(self.image_features(image))

    def fingerprint(self) -> str:
        """Return the SHA-256 of all weights, in the dtypes that compute."""
        digest = hashlib.sha256()
        for key, weights in sorted(self.state_dict().items()):
            digest.update(f"{key} {weights.dtype} {tuple(weights.shape)} ".encode())
            digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
