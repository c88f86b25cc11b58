"""Errors of backbones, and the check of their values."""

from collections.abc import Mapping

import torch
from torch import Tensor


class BackboneError(ValueError):
    """A backbone that cannot be loaded: an unknown name, or a file that is not a CLIP."""


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Check that all weights are finite.

    Args:
        state: the weights.
        source: their origin, for the message.

    Raises:
        BackboneError: a tensor has a value that is not.
    """
    for key, weights in state.items():
        if not torch.isfinite(weights).all():
            raise BackboneError(f"{source}: {key} has values that are not finite numbers. Copy the file again")
