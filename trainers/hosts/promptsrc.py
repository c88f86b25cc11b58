"""PromptSRC: prompts in both towers, kept near frozen CLIP's features, averaged over the epochs (arXiv 2307.06948,
github.com/muzairkhattak/PromptSRC).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from ..backbones import tokenizer_of
from ..config import Field
from ..engine import (
    ClassText,
    Encoded,
    Learner,
    PromptedCLIP,
    PromptGroup,
    Stack,
    clip_sizes,
    encode_image,
    host_texts,
    initial_context,
    special_tokens,
    words_to_start_from,
)
from ..engine.blocks import StockModule, at_least_float32
from ..method.templates import ensemble
from ..method.zero_shot import build_zero_shot_classifier
from ..training.features import TrainingFeatures, training_cache
from .base import PREC, HostTrainer, initial_words


class IndependentPrompts(Learner):
    """Prompts for each tower, and their weighted sum over the epochs so far.

    The sum is Gaussian prompt aggregation.

    Args:
        text: (depth_t, n_t, d_t).
        vision: (depth_v, n_v, d_v).
    """

    text_sum: Tensor
    vision_sum: Tensor
    joined_text_sum: Tensor
    joined_vision_sum: Tensor

    def __init__(self, text: Tensor, vision: Tensor):
        super().__init__()
        self.text = nn.Parameter(text)
        self.vision = nn.Parameter(vision)
        for name in ("text", "vision"):
            self.register_buffer(f"{name}_sum", torch.zeros_like(getattr(self, name)))

    def text_stack(self) -> Stack:
        """Return `depth_t` layers (n_t, d_t)."""
        return list(self.text)

    def vision_stack(self) -> Stack:
        """Return `depth_v` layers (n_v, d_v)."""
        return list(self.vision)

    def join(self, group: PromptGroup) -> None:
        """Learn a boosting prompt jointly, and sum it over the epochs as well."""
        super().join(group)
        for name, stack in (("text", group.text), ("vision", group.vision)):
            self.register_buffer(f"joined_{name}_sum", torch.zeros_like(stack))

    def _summed(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the prompts with their sums."""
        found = [(self.text, self.text_sum), (self.vision, self.vision_sum)]
        if self.joined is not None:
            found += [(self.joined.text, self.joined_text_sum), (self.joined.vision, self.joined_vision_sum)]
        return found

    @torch.no_grad()
    def accumulate(self, weight: float) -> None:
        """Add the current prompts to the sum."""
        for prompts, total in self._summed():
            total += weight * prompts

    @torch.no_grad()
    def use_sum(self) -> None:
        """Replace the prompts by the sum."""
        for prompts, total in self._summed():
            prompts.copy_(total)


class SelfRegulatedModel(PromptedCLIP):
    """A classifier with the three self-consistency losses.

    Args:
        clip_model: a frozen stock CLIP.
        learner: the prompts.
        texts: the text sequence of each of C classes.
        frozen_text: (C, E), frozen CLIP's class vectors over many templates; None: set before training.
        text_weight: weight of the L1 loss of text features.
        image_weight: weight of the L1 loss of image features.
    """

    frozen_text: Tensor

    def __init__(
        self,
        clip_model: StockModule,
        learner: IndependentPrompts,
        texts: Sequence[ClassText],
        frozen_text: Tensor | None,
        text_weight: float,
        image_weight: float,
    ):
        super().__init__(clip_model, learner, texts)
        self.register_buffer("frozen_text", frozen_text, persistent=False)
        self.text_weight, self.image_weight = text_weight, image_weight

    @torch.no_grad()
    def frozen_encode(self, image: Tensor) -> Tensor:
        """Return stock CLIP's features (B, E) of images (B, 3, R, R), without any prompt, not normalised."""
        return encode_image(self.clip.visual, image)

    def frozen_image_features(self, image: Tensor | Encoded) -> Tensor:
        """Return stock CLIP's normalised features (B, E) of images (B, 3, R, R), without any prompt."""
        features = image.features if isinstance(image, Encoded) else self.frozen_encode(image)
        return F.normalize(at_least_float32(features), dim=-1)

    def loss_terms(
        self, image: Tensor | Encoded, label: Tensor, frozen: Tensor | Encoded | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the cross-entropy and the distances to frozen CLIP.

        They are those of text features, image features and logits.

        The regularisation of section 3.2 of the paper.

        Args:
            image: (B, 3, R, R).
            label: (B,), class indices.
            frozen: the images as frozen CLIP encodes them; None: `image`.

        Returns:
            The terms by name, and the logits (B, C).
        """
        images, classes = self.image_features(image), self.class_features()
        scale = self.clip.logit_scale.exp()
        logits = scale * images @ classes.t()
        frozen_images = self.frozen_image_features(image if frozen is None else frozen)
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


def gaussian_weights(epochs: int, mean: float, std: float) -> Tensor:
    """Return the weight of each epoch in the aggregated prompts (section 3.3).

    They are (epochs,) in float64, with sum 1.

    Args:
        epochs: their number.
        mean: mean of the Gaussian, in epochs; the first is 1.
        std: its standard deviation, in epochs.
    """
    density = torch.exp(-0.5 * ((torch.arange(1, epochs + 1, dtype=torch.float64) - mean) / std) ** 2)
    return density / density.sum()


def build(
    clip_model: StockModule,
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
    """Build PromptSRC's model.

    Args:
        clip_model: a frozen stock CLIP.
        names: the class names.
        n_ctx_vision: number of tokens in each vision layer.
        n_ctx_text: number of tokens in each text layer.
        ctx_init: words whose first tokens initialise the first text layer (4 tokens at most); the others stay fixed.
        prompt_depth_vision: number of vision blocks with prompts.
        prompt_depth_text: number of text blocks with prompts.
        text_loss_weight: weight of the L1 loss of text features.
        image_loss_weight: weight of the L1 loss of image features.
        templates: of the frozen class vectors; empty: they are set before training.

    Raises:
        ValueError: a class name is too long with all prompts, or `ctx_init` has too few words.
    """
    words = words_to_start_from(ctx_init, n_ctx_text)
    encode = tokenizer_of(clip_model).encode
    first = initial_context(clip_model, encode, n_ctx_text, words)
    deeper = torch.randn(prompt_depth_text - 1, *first.shape, device=first.device) * 0.02
    vision = torch.randn(prompt_depth_vision, n_ctx_vision, clip_sizes(clip_model).vision_width) * 0.02
    return SelfRegulatedModel(
        clip_model,
        IndependentPrompts(torch.cat([first[None], deeper]), vision),
        host_texts(encode, names, n_ctx_text, words, eot=special_tokens(clip_model)[1]),
        frozen_text=build_zero_shot_classifier(clip_model, encode, names, templates) if templates else None,
        text_weight=text_loss_weight,
        image_weight=image_loss_weight,
    )


@TRAINER_REGISTRY.register()
class PromptSRC(HostTrainer):
    """Prompting with Self-regulating Constraints, https://arxiv.org/abs/2307.06948"""

    model: Any  # a SelfRegulatedModel
    frozen_features: TrainingFeatures | None = None
    node = "PROMPTSRC"
    learner_name = "VLPromptLearner"
    figure_titles: ClassVar = HostTrainer.figure_titles | {
        "scl_text": "text consistency",
        "scl_image": "image consistency",
        "scl_logits": "logit consistency",
    }
    fields = (
        Field("N_CTX_VISION", 4, "vision tokens in each block", least=0, most=512),
        Field("N_CTX_TEXT", 4, "text tokens in each block", least=1, most=74, limits=("text_positions",)),
        initial_words(node, "N_CTX_TEXT"),
        Field("PROMPT_DEPTH_VISION", 9, "vision blocks with tokens", least=0, most=256, limits=("vision_layers",)),
        Field("PROMPT_DEPTH_TEXT", 9, "text blocks with tokens", least=1, most=256, limits=("text_layers",)),
        Field("TEXT_LOSS_WEIGHT", 25, "weight of the text features' L1 loss", kind=float, least=0, most=10**6),
        Field("IMAGE_LOSS_WEIGHT", 10, "weight of the image features' L1 loss", kind=float, least=0, most=10**6),
        Field("GPA_MEAN", 15, "epoch with the largest weight in the average", kind=float, least=-1e6, most=1e6),
        Field("GPA_STD", 1, "width of the average in epochs", kind=float, least=1e-3, most=1e6),
        PREC,
    )

    @classmethod
    def make_model(cls, clip_model: StockModule, names: Sequence[str], options: dict[str, Any]) -> PromptedCLIP:
        of_model = {key: value for key, value in options.items() if not key.startswith("gpa_")}
        return build(clip_model, names, **of_model)

    @classmethod
    def prepare_training(cls, model: PromptedCLIP, names: Sequence[str], cfg: CfgNode) -> None:
        """Compute frozen CLIP's class vectors over the method's templates."""
        model.frozen_text = build_zero_shot_classifier(model.clip, tokenizer_of(model.clip).encode, names, ensemble())

    @classmethod
    def node_problems(cls, cfg: CfgNode, training: bool = True) -> list[str]:
        """Reject a Gaussian so far from all epochs that their weights vanish."""
        node, epochs = cfg.TRAINER.PROMPTSRC, cfg.OPTIM.MAX_EPOCH
        if gaussian_weights(epochs, node.GPA_MEAN, node.GPA_STD).isfinite().all():
            return []
        return [
            f"TRAINER.PROMPTSRC.GPA_MEAN: {node.GPA_MEAN} with GPA_STD {node.GPA_STD}; expected a mean within the epochs, "
            f"1 to {epochs}, or a larger GPA_STD: the weights of all epochs are 0"
        ]

    def build_model(self) -> None:
        """Compute the weights of the epochs, then build the model."""
        node = self.cfg.TRAINER.PROMPTSRC
        self.epoch_weights = gaussian_weights(self.cfg.OPTIM.MAX_EPOCH, node.GPA_MEAN, node.GPA_STD)
        super().build_model()

    def before_train(self) -> None:
        """Open the cache of frozen CLIP's features of the training images."""
        super().before_train()
        self.frozen_features = training_cache(self, [], self.cfg.TRAIN.VIEWS)

    def on_device(self, batch: dict) -> dict:
        """Add frozen CLIP's features from the cache, if there is one, as "frozen"."""
        batch = super().on_device(batch)
        if self.frozen_features is None:
            return batch
        return {**batch, "frozen": self.cached(self.frozen_features, batch, self.model.frozen_encode)}

    def loss_terms(self, batch: dict) -> tuple[dict[str, Tensor], Tensor]:
        """Return the model's loss terms and logits, with frozen CLIP's features if they are known."""
        frozen = Encoded(batch["frozen"]) if "frozen" in batch else None
        return self.model.loss_terms(batch["img"], batch["label"], frozen)

    def finish_epoch(self) -> None:
        """Aggregate the prompts; after the last epoch, the aggregate replaces them."""
        super().finish_epoch()
        learner = self.model.prompt_learner
        learner.accumulate(self.epoch_weights[self.epoch].item())
        if self.epoch + 1 == self.max_epoch:
            learner.use_sum()
