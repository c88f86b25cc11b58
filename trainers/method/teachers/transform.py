"""From the student's batches to the teacher's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Teacher


class TeacherTransform(nn.Module):
    """Resize and normalise the student's images as the teacher expects them.

    Args:
        teacher: the teacher.
        size: side of the student's square images in pixels.
        mean: mean of the channels that the student's images were normalised with (0: they were not normalised).
        std: standard deviation, likewise (1: they were not normalised).

    Attributes:
        untouched: whether both models take the same images.
    """

    mean: Tensor
    std: Tensor
    their_mean: Tensor
    their_std: Tensor

    def __init__(self, teacher: Teacher, size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.size, self.interpolation = teacher.size, teacher.interpolation
        theirs = teacher.statistics or (mean, std)
        same = torch.allclose(torch.tensor([*theirs[0], *theirs[1]]), torch.tensor([*mean, *std]), atol=1e-6)
        self.untouched = same and size == teacher.size
        for name, values in (("mean", mean), ("std", std), ("their_mean", theirs[0]), ("their_std", theirs[1])):
            self.register_buffer(name, torch.tensor(values).float().reshape(1, 3, 1, 1), persistent=False)

    def settings(self) -> dict:
        """Return everything that determines the result, for a cache's key."""
        return {"size": self.size, "interpolation": self.interpolation} | {
            name: values.flatten().tolist() for name, values in self.named_buffers()
        }

    def forward(self, image: Tensor) -> Tensor:
        """Return images (B, 3, size, size) for the teacher, of the student's (B, 3, R, R)."""
        if self.untouched:
            return image
        image = image.float() * self.std + self.mean
        if image.shape[-1] != self.size:
            image = F.interpolate(image, (self.size, self.size), mode=self.interpolation, antialias=True)
            image = image.clamp(0, 1)  # a bicubic kernel overshoots
        return (image - self.their_mean) / self.their_std
