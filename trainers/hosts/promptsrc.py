"""PromptSRC: prompts in both towers, kept near frozen CLIP's features, averaged over the epochs (arXiv 2307.06948,
github.com/muzairkhattak/PromptSRC)."""

from collections.abc import Sequence

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbones import tokenizer
from ..config import ConfigError
from ..engine import (
    Learner,
    PromptedCLIP,
    Stack,
    encode_image,
    encode_text,
    host_texts,
    initial_context,
    layout_of,
    worded_texts,
    words_to_start_from,
)
from ..engine.blocks import at_least_float32
from ..method.templates import ensemble
from .base import HostTrainer


class IndependentPrompts(Learner):
    """Prompts for each tower, and their weighted sum over the epochs so far (Gaussian prompt aggregation).

    Args:
        text: (depth_t, n_t, d_t); vision: (depth_v, n_v, d_v).
    """

    def __init__(self, text: Tensor, vision: Tensor):
        super().__init__()
        self.text = nn.Parameter(text)
        self.vision = nn.Parameter(vision)
        for name in ("text", "vision"):
            self.register_buffer(f"{name}_sum", torch.zeros_like(getattr(self, name)))

    def text_stack(self) -> Stack:
        """`depth_t` layers (n_t, d_t)."""
        return list(self.text)

    def vision_stack(self) -> Stack:
        """`depth_v` layers (n_v, d_v)."""
        return list(self.vision)

    @torch.no_grad()
    def accumulate(self, weight: float) -> None:
        """Add the current prompts to the sum."""
        self.text_sum += weight * self.text
        self.vision_sum += weight * self.vision

    @torch.no_grad()
    def use_sum(self) -> None:
        """Take the sum as the prompts."""
        self.text.copy_(self.text_sum)
        self.vision.copy_(self.vision_sum)


class SelfRegulatedModel(PromptedCLIP):
    """The classifier with the three self-consistency losses.

    Args:
        frozen_text: (C, E), normalised mean of frozen CLIP's text features over many templates.
        text_weight, image_weight: of the two L1 losses.
        others: as for `PromptedCLIP`.
    """

    def __init__(self, *others, frozen_text: Tensor | None, text_weight: float, image_weight: float):
        super().__init__(*others)
        self.register_buffer("frozen_text", frozen_text, persistent=False)
        self.text_weight, self.image_weight = text_weight, image_weight

    @torch.no_grad()
    def frozen_image_features(self, image: Tensor) -> Tensor:
        """(B, E), normalised: stock CLIP's, without any prompt."""
        return F.normalize(at_least_float32(encode_image(self.clip.visual, image)), dim=-1)

    def loss_terms(self, image: Tensor, label: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Cross-entropy, and the distances to frozen CLIP's text features, image features and logits (section 3.2)."""
        images, classes = self.image_features(image), self.class_features()
        scale = self.clip.logit_scale.exp()
        logits = scale * images @ classes.t()
        frozen_images = self.frozen_image_features(image)
        frozen_logits = scale * frozen_images @ self.frozen_text.t()
        terms = {
            "ce": F.cross_entropy(logits, label),
            "scl_text": F.l1_loss(classes, self.frozen_text) * self.text_weight,
            "scl_image": F.l1_loss(images, frozen_images) * self.image_weight,
            "scl_logits": F.kl_div(
                logits.log_softmax(dim=1), frozen_logits.log_softmax(dim=1), reduction="sum", log_target=True
            )
            / logits.numel(),
        }
        return terms, logits


@torch.no_grad()
def ensemble_features(clip_model: nn.Module, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """(C, E): the mean over templates of the features (not normalised before), then normalised."""
    encode = tokenizer().encode
    features = [encode_text(clip_model, layout_of(worded_texts(encode, names, t)))[0] for t in templates]
    return F.normalize(torch.stack(features).mean(dim=0), dim=-1)


def gaussian_weights(epochs: int, mean: float, std: float) -> Tensor:
    """The weight of each epoch in the aggregated prompts (section 3.3): a Gaussian over 1 ... epochs, with sum 1."""
    density = torch.exp(-0.5 * ((torch.arange(1, epochs + 1, dtype=torch.float64) - mean) / std) ** 2)
    return density / density.sum()


def build(
    clip_model: nn.Module,
    names: Sequence[str],
    n_ctx_vision: int = 4,
    n_ctx_text: int = 4,
    ctx_init: str = "",
    prompt_depth_vision: int = 9,
    prompt_depth_text: int = 9,
    text_loss_weight: float = 25,
    image_loss_weight: float = 10,
    templates: Sequence[str] = (),
) -> SelfRegulatedModel:
    """PromptSRC's model for these class names.

    Args:
        n_ctx_vision, n_ctx_text: tokens in each layer; prompt_depth_vision, prompt_depth_text: in how many blocks.
        ctx_init: as for MaPLe.
        text_loss_weight, image_loss_weight: of the L1 losses.
        templates: for the frozen text features; empty: they are set before training.

    Raises:
        ConfigError: a text depth below 1.
    """
    if prompt_depth_text < 1:
        raise ConfigError(f"TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT is {prompt_depth_text}, expected 1 or more")
    words = words_to_start_from(ctx_init, n_ctx_text)
    encode = tokenizer().encode
    first = initial_context(clip_model, encode, n_ctx_text, words)
    deeper = torch.randn(prompt_depth_text - 1, *first.shape) * 0.02
    vision = torch.randn(prompt_depth_vision, n_ctx_vision, clip_model.visual.class_embedding.shape[0]) * 0.02
    return SelfRegulatedModel(
        clip_model,
        IndependentPrompts(torch.cat([first[None], deeper]), vision),
        host_texts(encode, names, n_ctx_text, words),
        frozen_text=ensemble_features(clip_model, names, templates) if templates else None,
        text_weight=text_loss_weight,
        image_weight=image_loss_weight,
    )


@TRAINER_REGISTRY.register()
class PromptSRC(HostTrainer):
    """Prompting with Self-regulating Constraints, https://arxiv.org/abs/2307.06948"""

    node = "PROMPTSRC"
    learner_name = "VLPromptLearner"
    defaults = {
        "N_CTX_VISION": 4,
        "N_CTX_TEXT": 4,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
        "PROMPT_DEPTH_VISION": 9,
        "PROMPT_DEPTH_TEXT": 9,
        "TEXT_LOSS_WEIGHT": 25,
        "IMAGE_LOSS_WEIGHT": 10,
        "GPA_MEAN": 15,
        "GPA_STD": 1,
    }

    @classmethod
    def make_model(cls, clip_model: nn.Module, names: Sequence[str], options: dict) -> PromptedCLIP:
        """See `build`."""
        of_model = {key: value for key, value in options.items() if not key.startswith("gpa_")}
        return build(clip_model, names, **of_model, templates=())

    @classmethod
    def prepare_training(cls, model: PromptedCLIP, names: Sequence[str]) -> None:
        """Compute frozen CLIP's text features over the method's templates."""
        model.frozen_text = ensemble_features(model.clip, names, ensemble())

    def build_model(self) -> None:
        """Build the model, and the weights of its epochs."""
        node = self.cfg.TRAINER.PROMPTSRC
        if node.GPA_STD <= 0:
            raise ConfigError(f"TRAINER.PROMPTSRC.GPA_STD is {node.GPA_STD}, expected a number above 0")
        self.epoch_weights = gaussian_weights(self.cfg.OPTIM.MAX_EPOCH, node.GPA_MEAN, node.GPA_STD)
        super().build_model()

    def finish_epoch(self) -> None:
        """Aggregate the prompts; behind the last epoch, go on with the aggregate."""
        super().finish_epoch()
        learner = self.model.prompt_learner
        learner.accumulate(self.epoch_weights[self.epoch].item())
        if self.epoch + 1 == self.max_epoch:
            learner.use_sum()
