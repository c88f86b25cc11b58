"""CoOp: a learned context in place of a template's words (arXiv 2109.01134, github.com/KaiyangZhou/CoOp)."""

from collections.abc import Sequence
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from ..backbones import tokenizer_of
from ..config import Field, positions
from ..engine import (
    HOST,
    ClassText,
    Learner,
    PromptedCLIP,
    Stack,
    clip_sizes,
    host_texts,
    initial_context,
    special_tokens,
)
from ..engine.blocks import StockModule
from .base import PREC, HostTrainer, class_specific, context_fields, words_of


class Context(Learner):
    """The context vectors.

    Args:
        ctx: (n, d), or (C, n, d) with separate context for each class.
    """

    def __init__(self, ctx: Tensor):
        super().__init__()
        self.ctx = nn.Parameter(ctx)
        self.belongs_to_classes = ctx.dim() == 3

    def text_stack(self) -> Stack:
        """Return one layer: (n, d), or (1, C, n, d) with class-specific context."""
        return [self.ctx if self.ctx.dim() == 2 else self.ctx[None]]


def context_of(
    clip_model: StockModule,
    names: Sequence[str],
    n_ctx: int,
    csc: bool,
    ctx_init: str,
    class_token_position: str = "end",
) -> tuple[Context, list[ClassText], list[int]]:
    """Return a context and the text sequences of all classes.

    The third item lists the groups with separate tokens per class.

    Args:
        clip_model: a frozen stock CLIP.
        names: the class names.
        n_ctx: number of context tokens; with `ctx_init`, the number of its words instead.
        csc: separate context for each class; ignored with `ctx_init`, as in the CoOp repository.
        ctx_init: words that initialise the context.
        class_token_position: position of the class name, "end", "middle" or "front".
    """
    words = words_of(ctx_init)
    n_ctx = len(words.split(" ")) if words else n_ctx
    encode = tokenizer_of(clip_model).encode
    if csc and not words:
        ctx = torch.randn(len(names), n_ctx, clip_sizes(clip_model).text_width) * 0.02
    else:
        ctx = initial_context(clip_model, encode, n_ctx, words)
    texts = host_texts(encode, names, n_ctx, words, class_token_position, special_tokens(clip_model)[1])
    return Context(ctx), texts, [HOST] if ctx.dim() == 3 else []


def build(
    clip_model: StockModule,
    names: Sequence[str],
    n_ctx: int = 16,
    csc: bool = False,
    ctx_init: str = "",
    class_token_position: str = "end",
) -> PromptedCLIP:
    """Build CoOp's model; the arguments are those of `context_of`.

    Raises:
        ValueError: a class name is too long with all prompts, or the position is unknown.
    """
    return PromptedCLIP(clip_model, *context_of(clip_model, names, n_ctx, csc, ctx_init, class_token_position))


@TRAINER_REGISTRY.register()
class CoOp(HostTrainer):
    """Context Optimization, https://arxiv.org/abs/2109.01134"""

    node = "COOP"
    learner_name = "prompt_learner"
    fields = (
        *context_fields(node),
        class_specific(node),
        Field("CLASS_TOKEN_POSITION", "end", "position of the class name", choices=positions),
        PREC,
    )

    @classmethod
    def make_model(cls, clip_model: StockModule, names: Sequence[str], options: dict[str, Any]) -> PromptedCLIP:
        return build(clip_model, names, **options)
