"""KgCoOp: CoOp's context, guided by the class vectors of a hand-written template (arXiv 2303.13283,
github.com/htyao89/KgCoOp).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from ..backbones import tokenizer_of
from ..config import Field
from ..engine import ClassText, Encoded, Learner, PromptedCLIP
from ..engine.blocks import StockModule
from ..method.templates import template_of
from ..method.zero_shot import build_zero_shot_classifier
from . import coop
from .base import PREC, HostTrainer, class_specific, context_fields


class GuidedModel(PromptedCLIP):
    """A classifier whose class features are kept near the zero-shot class vectors.

    Args:
        clip_model: a frozen stock CLIP.
        learner: the prompts.
        texts: the text sequence of each of C classes.
        distinct: groups with separate tokens for each class.
        weight: weight of the guiding loss.
        zero_shot: (C, E), the zero-shot class vectors; None: set before training.
    """

    zero_shot: Tensor

    def __init__(
        self,
        clip_model: StockModule,
        learner: Learner,
        texts: Sequence[ClassText],
        distinct: Sequence[int],
        weight: float,
        zero_shot: Tensor | None = None,
    ):
        super().__init__(clip_model, learner, texts, distinct)
        self.register_buffer("zero_shot", zero_shot, persistent=False)
        self.weight = weight

    def loss_terms(self, image: Tensor | Encoded, label: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the cross-entropy, and the distance to the zero-shot class vectors.

        The latter is equation 5 of the paper.
        """
        classes = self.class_features()  # (C, E)
        logits = self.clip.logit_scale.exp() * self.image_features(image) @ classes.t()
        similarity = (classes * self.zero_shot).sum(dim=-1)  # (C,), of normalised vectors
        return {"ce": F.cross_entropy(logits, label), "kg": self.weight * (1 - similarity.mean())}, logits


def build(
    clip_model: StockModule,
    names: Sequence[str],
    n_ctx: int = 4,
    csc: bool = False,
    ctx_init: str = "",
    w: float = 8.0,
    template: str = "",
) -> GuidedModel:
    """Build KgCoOp's model.

    Args:
        clip_model: a frozen stock CLIP.
        names: the class names.
        n_ctx: number of context tokens; with `ctx_init`, the number of its words instead.
        csc: separate context for each class; ignored with `ctx_init`.
        ctx_init: words that initialise the context.
        w: weight of the guiding loss.
        template: of the zero-shot class vectors; empty: they are set before training.

    Raises:
        ValueError: a class name is too long with all prompts.
    """
    context, texts, distinct = coop.context_of(clip_model, names, n_ctx, csc, ctx_init)
    encode = tokenizer_of(clip_model).encode
    zero_shot = build_zero_shot_classifier(clip_model, encode, names, [template]) if template else None
    return GuidedModel(clip_model, context, texts, distinct, w, zero_shot)


@TRAINER_REGISTRY.register()
class KgCoOp(HostTrainer):
    """Knowledge-guided Context Optimization, https://arxiv.org/abs/2303.13283"""

    node = "KGCOOP"
    learner_name = "prompt_learner"
    figure_titles: ClassVar = HostTrainer.figure_titles | {"kg": "distance to the zero-shot class vectors"}
    fields = (
        *context_fields(node, 4, "a photo of a"),
        class_specific(node),
        Field("W", 8.0, "weight of the distance to the zero-shot class vectors", least=0, most=10**6),
        PREC,
    )

    @classmethod
    def make_model(cls, clip_model: StockModule, names: Sequence[str], options: dict[str, Any]) -> PromptedCLIP:
        return build(clip_model, names, **options)

    @classmethod
    def prepare_training(cls, model: PromptedCLIP, names: Sequence[str], cfg: CfgNode) -> None:
        """Compute the zero-shot class vectors with the dataset's template."""
        template = template_of(cfg.DATASET.NAME)
        model.zero_shot = build_zero_shot_classifier(model.clip, tokenizer_of(model.clip).encode, names, [template])
