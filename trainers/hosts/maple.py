"""MaPLe: text prompts in the first blocks, projected to vision prompts (arXiv 2210.03117,
github.com/muzairkhattak/multimodal-prompt-learning).
"""

from collections.abc import Sequence
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from ..backbones import tokenizer_of
from ..config import Field
from ..engine import (
    Learner,
    PromptedCLIP,
    Stack,
    clip_sizes,
    host_texts,
    initial_context,
    special_tokens,
    words_to_start_from,
)
from ..engine.blocks import StockModule
from .base import PREC, HostTrainer, initial_words


class MultiModalContext(Learner):
    """Text tokens for each of the first `depth` blocks.

    A linear layer for each makes its vision tokens.

    Args:
        ctx: (n, d_t), the first layer's tokens.
        depth: number of layers.
        vision_width: d_v.
    """

    def __init__(self, ctx: Tensor, depth: int, vision_width: int):
        super().__init__()
        self.ctx = nn.Parameter(ctx)
        self.proj = nn.Linear(ctx.shape[1], vision_width)
        deeper = range(depth - 1)
        self.compound_prompts_text = nn.ParameterList([nn.Parameter(torch.randn(ctx.shape) * 0.02) for _ in deeper])
        self.compound_prompt_projections = nn.ModuleList([nn.Linear(ctx.shape[1], vision_width) for _ in deeper])

    def text_stack(self) -> Stack:
        """Return `depth` layers (n, d_t)."""
        return [self.ctx, *self.compound_prompts_text]

    def vision_stack(self) -> Stack:
        """Return `depth` layers (n, d_v), projected from the text tokens."""
        projections = [self.proj, *self.compound_prompt_projections]
        return [project(tokens) for project, tokens in zip(projections, self.text_stack(), strict=True)]


def build(
    clip_model: StockModule, names: Sequence[str], n_ctx: int = 2, ctx_init: str = "", prompt_depth: int = 9
) -> PromptedCLIP:
    """Build MaPLe's model.

    Args:
        clip_model: a frozen stock CLIP.
        names: the class names.
        n_ctx: number of tokens in each layer.
        ctx_init: words whose first tokens initialise the first layer (4 tokens at most); the others stay fixed.
        prompt_depth: number of blocks with prompts; 1 is shallow prompting.

    Raises:
        ValueError: a class name is too long with all prompts, or `ctx_init` has too few words.
    """
    words = words_to_start_from(ctx_init, n_ctx)
    encode = tokenizer_of(clip_model).encode
    ctx = initial_context(clip_model, encode, n_ctx, words)
    learner = MultiModalContext(ctx, prompt_depth, clip_sizes(clip_model).vision_width)
    texts = host_texts(encode, names, n_ctx, words, eot=special_tokens(clip_model)[1])
    return PromptedCLIP(clip_model, learner, texts)


@TRAINER_REGISTRY.register()
class MaPLe(HostTrainer):
    """Multi-modal Prompt Learning, https://arxiv.org/abs/2210.03117"""

    node = "MAPLE"
    learner_name = "MultiModalPromptLearner"
    fields = (
        Field("N_CTX", 2, "tokens in each block", least=1, most=74, limits=("text_positions",)),
        initial_words(node, "N_CTX"),
        Field("PROMPT_DEPTH", 9, "blocks with tokens", least=1, most=256, limits=("text_layers", "vision_layers")),
        PREC,
    )

    @classmethod
    def make_model(cls, clip_model: StockModule, names: Sequence[str], options: dict[str, Any]) -> PromptedCLIP:
        return build(clip_model, names, **options)
