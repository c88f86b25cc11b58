"""CoCoOp: a context that a small network shifts for each image (arXiv 2203.05557, github.com/KaiyangZhou/CoOp)."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from ..backbones import tokenizer_of
from ..engine import Encoded, Learner, PromptedCLIP, Stack, clip_sizes, host_texts, initial_context, special_tokens
from ..engine.blocks import StockModule
from .base import PREC, HostTrainer, context_fields, words_of


class ConditionalContext(Learner):
    """Context vectors, and the meta-network that shifts all of them by a function of the image.

    Args:
        ctx: (n, d).
        features: E, the width of an image feature.
    """

    def __init__(self, ctx: Tensor, features: int):
        super().__init__()
        self.ctx = nn.Parameter(ctx)
        hidden = max(1, features // 16)
        layers = [
            ("linear1", nn.Linear(features, hidden)),
            ("relu", nn.ReLU()),
            ("linear2", nn.Linear(hidden, ctx.shape[1])),
        ]
        self.meta_net = nn.Sequential(OrderedDict(layers))

    def conditioned(self, image_features: Tensor) -> Stack:
        """Return one layer (B, 1, n, d), the context shifted for each image of features (B, E)."""
        shift = self.meta_net(image_features.to(self.ctx.dtype))  # (B, d)
        return [(self.ctx + shift[:, None])[:, None]]  # (B, 1, n, d)


class ConditionalModel(PromptedCLIP):
    """A classifier whose class features depend on the image."""

    prompt_learner: ConditionalContext

    def forward(self, image: Tensor | Encoded) -> Tensor:
        """Return the logits (B, C) of images (B, 3, R, R)."""
        images = self.image_features(image)  # (B, E)
        classes = self.text_features(self.prompt_learner.conditioned(images), len(images))  # (B, C, E)
        return self.clip.logit_scale.exp() * torch.einsum("be,bce->bc", images, classes)


def build(clip_model: StockModule, names: Sequence[str], n_ctx: int = 16, ctx_init: str = "") -> ConditionalModel:
    """Build CoCoOp's model.

    Args:
        clip_model: a frozen stock CLIP.
        names: the class names.
        n_ctx: number of context tokens; with `ctx_init`, the number of its words instead.
        ctx_init: words that initialise the context.

    Raises:
        ValueError: a class name is too long with all prompts.
    """
    words = words_of(ctx_init)
    n_ctx = len(words.split(" ")) if words else n_ctx
    encode = tokenizer_of(clip_model).encode
    ctx = initial_context(clip_model, encode, n_ctx, words)
    learner = ConditionalContext(ctx, clip_sizes(clip_model).embedding)
    texts = host_texts(encode, names, n_ctx, words, eot=special_tokens(clip_model)[1])
    return ConditionalModel(clip_model, learner, texts)


@TRAINER_REGISTRY.register()
class CoCoOp(HostTrainer):
    """Conditional Context Optimization, https://arxiv.org/abs/2203.05557"""

    node = "COCOOP"
    learner_name = "prompt_learner"
    fields = (*context_fields(node), PREC)

    @classmethod
    def make_model(cls, clip_model: StockModule, names: Sequence[str], options: dict[str, Any]) -> PromptedCLIP:
        return build(clip_model, names, **options)
