"""The classifier that everything here is built around: a frozen CLIP, a host's prompts, and a boosting prompt."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import StockModule, at_least_float32
from .memory import classes_at_a_time
from .prompts import PromptGroup, Stack
from .symbols import ClassText
from .text import encode_text
from .tokens import layout_of
from .vision import encode_image


class Learner(nn.Module):
    """A host's learned parameters, and the tokens that they make."""

    def text_stack(self) -> Stack:
        """Text tokens by layer, as `encode_text` takes them."""
        return []

    def vision_stack(self) -> Stack:
        """Vision tokens by layer, (n, d) each."""
        return []


class PromptedCLIP(nn.Module):
    """A CLIP classifier with a host's prompts and, if it was cascaded, a frozen boosting prompt.

    Args:
        clip_model: a frozen stock CLIP.
        learner: the host's parameters.
        texts: for each of C classes, the host's text sequence.
        distinct: groups that have other tokens for each class (see `TextLayout`).
    """

    def __init__(
        self,
        clip_model: StockModule,
        learner: Learner,
        texts: Sequence[ClassText],
        distinct: Sequence[int] = (),
    ):
        super().__init__()
        self.clip: StockModule = clip_model
        self.prompt_learner = learner
        self.texts, self.distinct = texts, distinct
        self.layout = layout_of(texts, distinct=distinct)
        self.boosting: PromptGroup | None = None
        self._cached: tuple | None = None
        self._at_a_time: dict[tuple[int, bool], int | None] = {}

    def cascade(self, group: PromptGroup | None, order: str = "boosting_first") -> None:
        """Put a boosting prompt ahead of the host's own (CasPL, arXiv 2409.17805, section 3.3), or take it out (None).

        Raises:
            ValueError: a class name is then too long for the text tower, or the order is unknown.
        """
        tokens = group.text.shape[1] if group is not None and len(group.text) else 0
        layout = layout_of(self.texts, tokens, order, self.distinct)
        self.layout = layout.to(self.clip.logit_scale.device)
        self.boosting = group
        self._at_a_time.clear()

    def _stacks(self, of_host: Stack, tower: str) -> list[Stack]:
        """Both groups' tokens, in the order of their numbers (`HOST`, `BOOSTING`)."""
        return [of_host] if self.boosting is None else [of_host, list(getattr(self.boosting, tower))]

    def image_features(self, image: Tensor) -> Tensor:
        """(B, E), normalised, in float32 at least."""
        stacks = self._stacks(self.prompt_learner.vision_stack(), "vision")
        return F.normalize(at_least_float32(encode_image(self.clip.visual, image, stacks)), dim=-1)

    def class_features(self) -> Tensor:
        """(C, E), normalised, in float32 at least. In evaluation they are computed once, until a parameter changes."""
        if torch.is_grad_enabled():
            return self._class_features()
        state = [(p.data_ptr(), p._version) for p in self.parameters()] + [id(self.layout)]
        if self._cached is None or self._cached[0] != state:
            self._cached = (state, self._class_features())
        return self._cached[1]

    def _class_features(self) -> Tensor:
        return self.text_features(self.prompt_learner.text_stack())[0]

    def text_features(self, of_host: Stack, images: int = 1) -> Tensor:
        """(b, C, E), normalised, in float32 at least; as many classes at a time as fit into memory.

        Args:
            of_host: the host's tokens; images: b, how many images they differ for.
        """
        key = images, torch.is_grad_enabled()
        if key not in self._at_a_time:
            self._at_a_time[key] = classes_at_a_time(self.clip, self.layout, *key)
        features = encode_text(self.clip, self.layout, self._stacks(of_host, "text"), self._at_a_time[key])
        return F.normalize(at_least_float32(features), dim=-1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, R, R)."""
        return self.clip.logit_scale.exp() * self.image_features(image) @ self.class_features().t()

    def loss_terms(self, image: Tensor, label: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The terms whose sum the host minimises, by name, and the logits (B, C)."""
        logits = self(image)
        return {"ce": F.cross_entropy(logits, label)}, logits
