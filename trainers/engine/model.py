"""The prompted classifier: a frozen CLIP, a host's prompts and an optional boosting prompt."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import StockModule, at_least_float32
from .layout import TextLayout
from .memory import classes_at_a_time
from .paths import is_exporting
from .prompts import PromptGroup, Stack, TextStack
from .symbols import ClassText
from .text import encode_text
from .tokens import layout_of, special_tokens
from .vision import encode_image
from .watched import Watched

Layers = TypeVar("Layers", Stack, TextStack)


class Encoded(NamedTuple):
    """Images whose features are known.

    Attributes:
        features: (B, E), as `PromptedCLIP.encode` returns them.
    """

    features: Tensor


class Learner(nn.Module):
    """A host's learned parameters and the prompt tokens computed from them.

    Attributes:
        belongs_to_classes: whether there are separate parameters for each class, which mean nothing for other classes.
        joined: a boosting prompt that is learned jointly; None without one.
    """

    belongs_to_classes = False

    def __init__(self) -> None:
        super().__init__()
        self.joined: PromptGroup | None = None

    def join(self, group: PromptGroup) -> None:
        """Learn a boosting prompt jointly with the host's own."""
        self.joined = group

    def text_stack(self) -> TextStack:
        """Return the text tokens of each layer, in a shape that `encode_text` accepts."""
        return []

    def vision_stack(self) -> Stack:
        """Return the vision tokens of each layer, (n, d) each."""
        return []


class PromptedCLIP(nn.Module):
    """A CLIP classifier with a host's prompts and, once cascaded, a frozen boosting prompt.

    Args:
        clip_model: a frozen stock CLIP.
        learner: the host's parameters.
        texts: the host's text sequence for each of C classes.
        distinct: groups with separate tokens for each class (see `TextLayout`).

    Raises:
        ValueError: the list of classes is empty, or a class name is too long for the text tower.
    """

    _watched: Watched  # what `_cached` was computed from

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
        self.layout = self._layout()
        self.boosting: PromptGroup | None = None
        self._cached: Tensor | None = None
        self._cached_key: tuple[int, ...] = ()
        self._at_a_time: dict[tuple[int, bool], int | None] = {}

    def cascade(self, group: PromptGroup | None, order: str = "boosting_first") -> None:
        """Add a boosting prompt to the host's prompts (CasPL, arXiv 2409.17805, section 3.3).

        Args:
            group: the boosting prompt; None removes it.
            order: position of its text tokens, one of `ORDERS` (see `arrange`).

        Raises:
            ValueError: a class name becomes too long for the text tower, or the order is unknown.
        """
        tokens = group.text.shape[1] if group is not None and len(group.text) else 0
        self.layout = self._layout(tokens, order).to(self.clip.logit_scale.device)
        self.boosting = group
        self._at_a_time.clear()

    def join(self, group: PromptGroup, order: str = "boosting_first") -> None:
        """Add a boosting prompt that the host's loss trains, as part of the learner.

        Arguments as of `cascade`.
        """
        self.prompt_learner.join(group)
        self.cascade(group, order)

    def _layout(self, boosting: int = 0, order: str = "boosting_first") -> TextLayout:
        """Build the layout for this text tower."""
        positions, (sos, _) = len(self.clip.positional_embedding), special_tokens(self.clip)
        return layout_of(self.texts, boosting, order, self.distinct, positions, sos)

    def _stacks(self, of_host: Layers, tower: str) -> list[Layers]:
        """Return the stacks of both groups, indexed by `HOST` and `BOOSTING`."""
        return [of_host] if self.boosting is None else [of_host, list(getattr(self.boosting, tower))]

    def vision_stacks(self) -> list[Stack]:
        """Return the vision tokens of each layer of the host and of the boosting prompt, (n, d) each."""
        return self._stacks(self.prompt_learner.vision_stack(), "vision")

    def has_text_prompts_only(self) -> bool:
        """Check whether the host leaves the image tower frozen, with or without a frozen boosting prompt."""
        joined = self.prompt_learner.joined
        return not len(self.prompt_learner.vision_stack()) and (joined is None or not joined.vision.numel())

    def encode(self, image: Tensor) -> Tensor:
        """Return image features (B, E) of images (B, 3, R, R).

        They are not normalised, in the dtype that computes.
        """
        return encode_image(self.clip.visual, image, self.vision_stacks())

    def image_features(self, image: Tensor | Encoded) -> Tensor:
        """Return normalised image features (B, E) of images (B, 3, R, R), in float32 or float64."""
        features = image.features if isinstance(image, Encoded) else self.encode(image)
        return F.normalize(self.image_head()(at_least_float32(features)), dim=-1)

    def image_head(self) -> nn.Module:
        """Return the learned module from image features to those of the classes.

        By default none.
        """
        return nn.Identity()

    def class_features(self) -> Tensor:
        """Return normalised class features (C, E), in float32 or float64.

        Without gradients they are cached until a parameter or the layout changes. A compiled model caches them only if it
        has no trainable parameters.
        """
        if torch.is_grad_enabled() or is_exporting():
            return self._class_features()
        if torch.compiler.is_compiling() and any(parameter.requires_grad for parameter in self.parameters()):
            return self._class_features()
        self._refresh_class_features()
        assert self._cached is not None
        return self._cached

    @torch.compiler.assume_constant_result
    def _refresh_class_features(self) -> None:
        """Compute the cached class features if they are outdated; a compiler runs it at compile time."""
        key = id(self), id(self.layout)
        if self._cached is None or self._cached_key != key or not self._watched.unchanged():
            with torch.no_grad():
                self._cached = self._class_features()
            self._cached_key, self._watched = key, Watched(self)

    def _class_features(self) -> Tensor:
        return self.text_features(self.prompt_learner.text_stack())[0]

    def text_features(self, of_host: TextStack, images: int = 1) -> Tensor:
        """Return normalised text features, computed in chunks of classes that fit into memory.

        Args:
            of_host: the host's text tokens of each layer.
            images: b, the number of images with separate tokens (CoCoOp), else 1.

        Returns:
            (b, C, E), in float32 or float64.
        """
        chunk = self._chunk(images, torch.is_grad_enabled())
        features = encode_text(self.clip, self.layout, self._stacks(of_host, "text"), chunk)
        return F.normalize(at_least_float32(features), dim=-1)

    @torch.compiler.assume_constant_result
    def _chunk(self, images: int, training: bool) -> int | None:
        """Choose the number of classes to compute at once, on the first call; a compiler runs it at compile time."""
        key = images, training
        if key not in self._at_a_time:
            self._at_a_time[key] = classes_at_a_time(self.clip, self.layout, *key)
        return self._at_a_time[key]

    def forward(self, image: Tensor | Encoded) -> Tensor:
        """Return the logits (B, C) of images (B, 3, R, R)."""
        return self.clip.logit_scale.exp() * self.image_features(image) @ self.class_features().t()

    def loss_terms(self, image: Tensor | Encoded, label: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the host's loss terms; their sum is the training loss.

        Args:
            image: (B, 3, R, R).
            label: (B,), class indices.

        Returns:
            The terms by name, and the logits (B, C).
        """
        logits = self(image)
        return {"ce": F.cross_entropy(logits, label)}, logits
