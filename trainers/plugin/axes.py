"""Find out which dimension of a block's input counts the tokens."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .attention import first, on_sequence
from .randomness import same_randomness


def token_axis(block: nn.Module, attn: nn.Module, args: tuple, kwargs: dict, kept: dict[int, Any]) -> int:
    """Return the dimension of the tokens in a block's input, 0 or 1.

    PyTorch's attention declares it (`batch_first`). For any other one a copy of the block is run twice: the tokens of a
    sequence see each other, the sequences of a batch do not.

    Args:
        block: the block; attn: its attention.
        args, kwargs: the block's arguments.
        kept: id -> object, for objects that the copy shares with the block.
    """
    if isinstance(declared := getattr(attn, "batch_first", None), bool):
        return int(declared)
    twin = copy.deepcopy(block, kept).eval()
    last = []
    for change in (_same, _others):
        changed, more = on_sequence(args, kwargs, change)
        with torch.no_grad(), same_randomness():
            last.append(first(twin.forward(*changed, **more))[-1])
    return int(torch.equal(*last))


def _same(x: Tensor) -> Tensor:
    return x.clone()


def _others(x: Tensor) -> Tensor:
    """Return a sequence in which all but the last item of dimension 0 differ."""
    return torch.cat([-x[:-1], x[-1:]])
