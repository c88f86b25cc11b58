"""CoCoOp: a context that a small network shifts for each image (arXiv 2203.05557, github.com/KaiyangZhou/CoOp)."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from ..backbones import tokenizer
from ..engine import Learner, PromptedCLIP, Stack, host_texts, initial_context
from .base import HostTrainer


class ConditionalContext(Learner):
    """Context vectors and the meta-network that shifts all of them by a function of the image.

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
        """One layer (B, 1, n, d): the context as shifted for each of B images, given their features (B, E)."""
        shift = self.meta_net(image_features.to(self.ctx.dtype))
        return [(self.ctx + shift[:, None])[:, None]]


class ConditionalModel(PromptedCLIP):
    """The classifier whose class features depend on the image."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C)."""
        images = self.image_features(image)
        classes = self.text_features(self.prompt_learner.conditioned(images), len(images))
        return self.clip.logit_scale.exp() * torch.einsum("be,bce->bc", images, classes)


def build(clip_model: nn.Module, names: Sequence[str], n_ctx: int = 16, ctx_init: str = "") -> ConditionalModel:
    """CoCoOp's model for these class names; the arguments are CoOp's (see `coop.build`)."""
    words = ctx_init.replace("_", " ")
    n_ctx = len(words.split(" ")) if words else n_ctx
    encode = tokenizer().encode
    ctx = initial_context(clip_model, encode, n_ctx, words)
    learner = ConditionalContext(ctx, clip_model.text_projection.shape[1])
    return ConditionalModel(clip_model, learner, host_texts(encode, names, n_ctx, words))


@TRAINER_REGISTRY.register()
class CoCoOp(HostTrainer):
    """Conditional Context Optimization, https://arxiv.org/abs/2203.05557"""

    node = "COCOOP"
    learner_name = "prompt_learner"
    defaults = {"N_CTX": 16, "CTX_INIT": "", "PREC": "fp16"}

    @classmethod
    def make_model(cls, clip_model: nn.Module, names: Sequence[str], options: dict) -> PromptedCLIP:
        """See `build`."""
        return build(clip_model, names, **options)
