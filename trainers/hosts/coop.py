"""CoOp: a learned context in place of a template's words (arXiv 2109.01134, github.com/KaiyangZhou/CoOp)."""

from collections.abc import Sequence

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from .. import config
from ..backbones import tokenizer
from ..engine import HOST, POSITIONS, Learner, PromptedCLIP, Stack, host_texts, initial_context
from .base import HostTrainer


class Context(Learner):
    """The context vectors.

    Args:
        ctx: (n, d), or (C, n, d) with a context for each class.
    """

    def __init__(self, ctx: Tensor):
        super().__init__()
        self.ctx = nn.Parameter(ctx)

    def text_stack(self) -> Stack:
        """One layer: (n, d), or (1, C, n, d) with class-specific context."""
        return [self.ctx if self.ctx.dim() == 2 else self.ctx[None]]


def build(
    clip_model: nn.Module,
    names: Sequence[str],
    n_ctx: int = 16,
    csc: bool = False,
    ctx_init: str = "",
    class_token_position: str = "end",
) -> PromptedCLIP:
    """CoOp's model for these class names.

    Args:
        n_ctx: context tokens (with `ctx_init`: as many as that has words).
        csc: a context of its own for each class (not with `ctx_init`, as in the CoOp repository).
        ctx_init: words that the context starts from.
        class_token_position: "end", "middle" or "front".
    """
    words = ctx_init.replace("_", " ")
    n_ctx = len(words.split(" ")) if words else n_ctx
    encode = tokenizer().encode
    if csc and not words:
        ctx = torch.randn(len(names), n_ctx, clip_model.ln_final.weight.shape[0]) * 0.02
    else:
        ctx = initial_context(clip_model, encode, n_ctx, words)
    texts = host_texts(encode, names, n_ctx, words, class_token_position)
    return PromptedCLIP(clip_model, Context(ctx), texts, distinct=[HOST] if ctx.dim() == 3 else ())


@TRAINER_REGISTRY.register()
class CoOp(HostTrainer):
    """Context Optimization, https://arxiv.org/abs/2109.01134"""

    node = "COOP"
    learner_name = "prompt_learner"
    defaults = {"N_CTX": 16, "CSC": False, "CTX_INIT": "", "PREC": "fp16", "CLASS_TOKEN_POSITION": "end"}

    def check_cfg(self, cfg) -> None:
        """Check the position of the class name, too."""
        super().check_cfg(cfg)
        key = f"TRAINER.{self.node}.CLASS_TOKEN_POSITION"
        config.check_choice(key, cfg.TRAINER[self.node].CLASS_TOKEN_POSITION, POSITIONS)

    @classmethod
    def make_model(cls, clip_model: nn.Module, names: Sequence[str], options: dict) -> PromptedCLIP:
        """See `build`."""
        return build(clip_model, names, **options)
