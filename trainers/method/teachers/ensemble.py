"""Several teachers whose probabilities are averaged (arXiv 2606.23897)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Teacher

MEANS = ("mean", "confidence")  # values of TRAINER.CASPL.TEACHER.MEAN


class Ensemble(Teacher):
    """Teachers that classify together; their image features are concatenated.

    Args:
        members: the teachers, for the same classes.
        mean: "mean": all of them count equally; "confidence": in proportion to their largest probability for the image.
    """

    def __init__(self, members: Sequence[Teacher], mean: str = "mean"):
        super().__init__()
        self.several = nn.ModuleList(members)
        self.mean = mean
        self.paths = tuple(path for member in members for path in member.paths)
        self.size = max(member.size for member in members)

    @property
    def members(self) -> Sequence[Teacher]:
        """The teachers."""
        return list(self.several)  # type: ignore[arg-type]

    def _class_features(self) -> Tensor:
        """Return all teachers' class features (C, E1 + E2 + ...)."""
        return torch.cat([member.class_features() for member in self.members], dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logarithm (B, C) of the averaged probabilities.

        Args:
            features: (B, E1 + E2 + ...), the teachers' normalised image features.
        """
        parts = features.split([member.class_features().shape[1] for member in self.members], dim=1)
        pairs = zip(self.members, parts, strict=True)
        each = torch.stack([member.logits(part).float().log_softmax(dim=1) for member, part in pairs])  # (K, B, C)
        weights = each.amax(dim=2, keepdim=True) if self.mean == "confidence" else torch.zeros_like(each[..., :1])
        return (each + weights.log_softmax(dim=0)).logsumexp(dim=0)
