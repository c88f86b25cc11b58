"""The text tower: a stock CLIP text transformer with groups of prompt tokens among the words."""

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import text_cpu, text_gpu
from .kernels import StockModule
from .layout import TextLayout
from .paths import minimizes_launches
from .prompts import TextStack, check_stacks


def encode_text(
    model: StockModule, layout: TextLayout, stacks: Sequence[TextStack] = (), chunk: int | None = None
) -> Tensor:
    """Encode the texts of all classes with a stock CLIP and prompt groups.

    Tokens of layer 0 get the positional embedding of their position. At the input of block i, 0 < i < depth, the tokens
    of a group are replaced by its layer i, without positional embedding. From block `depth` on they are carried like any
    other token (IVLP and MaPLe, github.com/muzairkhattak/multimodal-prompt-learning). A layer of None carries the tokens
    as well, so that tokens can be replaced at the input of any later block (TCP, arXiv 2311.18231).

    Under the causal mask the shared prefix does not depend on the class, so it is computed once and all suffixes attend
    to its keys and values. A common beginning of several suffixes is computed once, and tokens after EOT not at all.

    Args:
        model: `clip.model.CLIP`.
        layout: the sequences of C classes.
        stacks: the layers of each group, (n, d) each; or (b, c, n, d), where b is the number of images with separate
            tokens (CoCoOp) or 1, and c is C for separate tokens per class (CoOp's class-specific context) or 1. A layer
            other than the first may be None in a group that is `distinct` in the layout.
        chunk: number of classes to compute at once; None computes all. In training each chunk is recomputed in the
            backward pass, so peak memory is that of one chunk.

    Returns:
        (b, C, E), read at EOT, not normalised.

    Raises:
        ValueError: a stack is deeper or wider than the text tower, or its tokens do not match the layout.
    """
    stacks = [[None if tokens is None else _as_batch_class(tokens) for tokens in stack] for stack in stacks]
    check_stacks(stacks, len(model.transformer.resblocks), model.ln_final.weight.shape[0], "text")
    _check_slots(layout, stacks)
    tower = text_gpu if minimizes_launches(model.positional_embedding.device) else text_cpu
    if chunk is None:
        return tower.encode(model, layout, stacks, None)
    pieces = [range(len(layout))[start : start + chunk] for start in range(0, len(layout), chunk)]
    return torch.cat([_recomputed_in_backward(tower, model, layout, stacks, piece) for piece in pieces], dim=1)


def _as_batch_class(tokens: Tensor) -> Tensor:
    return tokens[None, None] if tokens.dim() == 2 else tokens


def _recomputed_in_backward(tower: ModuleType, *arguments) -> Tensor:
    if torch.is_grad_enabled():
        return checkpoint(tower.encode, *arguments, use_reentrant=False)
    return tower.encode(*arguments)


def _check_slots(layout: TextLayout, stacks: Sequence[TextStack]) -> None:
    for group, need in layout.needed.items():
        stack = stacks[group] if group < len(stacks) else []
        have = stack[0].shape[-2] if stack and stack[0] is not None else 0
        if need > have:
            raise ValueError(
                f"prompt group {group}: {have} text tokens; expected {need}, the slots of the text layout. Build the "
                "layout with the group's number of text tokens (0 for a text depth of 0)"
            )
        classes = max(tokens.shape[1] for tokens in stack if tokens is not None)
        distinct = group in layout.distinct
        if not distinct and any(tokens is None for tokens in stack):
            raise ValueError(
                f"prompt group {group}: a layer of None; expected tokens in all layers of a group that classes share. Build "
                "the layout with this group in `distinct`"
            )
        if classes > 1 and not (distinct and classes == len(layout)):
            raise ValueError(
                f"prompt group {group}: separate tokens for {classes} classes; expected "
                + (f"{len(layout)}, the classes of the text layout" if distinct else "tokens shared by all classes")
                + ". Build the layout for these classes, with this group in `distinct`"
            )
