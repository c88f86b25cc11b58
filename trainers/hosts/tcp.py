"""TCP: text tokens made of each class's zero-shot vector enter a middle block (arXiv 2311.18231,
github.com/htyao89/Textual-based_Class-aware_prompt_tuning).
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor, nn

from ..backbones import tokenizer_of
from ..config import Field
from ..engine import HOST, ClassText, Learner, PromptedCLIP, TextStack, clip_sizes, special_tokens
from ..engine.blocks import StockModule
from ..engine.symbols import slots
from ..engine.tokens import plain_name
from ..method.zero_shot import build_zero_shot_classifier
from .base import PREC, HostTrainer
from .kgcoop import GuidedModel

TOKENS = 4  # of the context, in place of the first words of a prompt template, and of each class
EPSILON = 1e-3  # of Adam, as in the published training

# The published templates, by dataset. A prompt template starts with the words that the context replaces.
_ZERO_SHOT = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of an aircraft {}.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of a {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}
_PROMPT = {
    "OxfordPets": "X X X X {}, a type of pet.",
    "OxfordFlowers": "X X X X {}, a type of flower.",
    "FGVCAircraft": "X X X X {}, a type of aircraft.",
    "DescribableTextures": "X X X X {} texture.",
    "StanfordCars": "X X X X {}, a type of car",
    "Food101": "X X X X {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
    **dict.fromkeys(("ImageNet", "ImageNetSketch", "ImageNetV2", "ImageNetA", "ImageNetR"), "a photo of a {}."),
}


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ClassAwareContext(Learner):
    """Context vectors, and the network that makes tokens of the classes' zero-shot vectors.

    Args:
        ctx: (n, d), the context at the first block.
        zero_shot: (C, E), the zero-shot class vectors.
        layer: index of the block whose input gets the class tokens.
    """

    zero_shot: Tensor

    def __init__(self, ctx: Tensor, zero_shot: Tensor, layer: int):
        super().__init__()
        self.ctx = nn.Parameter(ctx)
        self.layer = layer
        self.register_buffer("zero_shot", zero_shot, persistent=False)
        features = zero_shot.shape[1]
        hidden = max(1, features // 4)
        layers = [
            ("linear1", nn.Linear(features, hidden)),
            ("relu", _QuickGELU()),  # the published name
            ("linear2", nn.Linear(hidden, ctx.numel())),
        ]
        self.meta_net = nn.Sequential(OrderedDict(layers))

    def class_tokens(self) -> Tensor:
        """Return the tokens of each class, (C, n, d)."""
        return self.meta_net(self.zero_shot).unflatten(-1, self.ctx.shape)

    def text_stack(self) -> TextStack:
        """Return the context (n, d), carried up to the block `layer`.

        There the class tokens (1, C, n, d) replace it.
        """
        return [self.ctx, *[None] * (self.layer - 1), self.class_tokens()[None]]


def prompt_texts(clip_model: StockModule, names: Sequence[str], template: str) -> list[ClassText]:
    """Return the sequence of each class.

    It is the context in place of a template's first words, and the rest of it.

    Args:
        clip_model: a frozen stock CLIP.
        names: the class names.
        template: a text with {} for the class name.
    """
    encode, (_, eot) = tokenizer_of(clip_model).encode, special_tokens(clip_model)
    texts = []
    for name in names:
        ids = encode(template.replace("{}", plain_name(name)))
        texts.append(ClassText(name, slots(HOST, TOKENS), (*ids[TOKENS:], eot)))
    return texts


def build(
    clip_model: StockModule,
    names: Sequence[str],
    layer: int = 8,
    w: float = 8.0,
    dataset: str = "",
) -> GuidedModel:
    """Build TCP's model.

    Args:
        clip_model: a frozen stock CLIP.
        names: the class names.
        layer: index of the text block whose input gets the class tokens.
        w: weight of the guiding loss.
        dataset: registry name of the dataset, which determines the templates.

    Raises:
        ValueError: a class name is too long with all prompts.
    """
    sizes = clip_sizes(clip_model)
    template = _ZERO_SHOT.get(dataset, "a photo of a {}.")
    zero_shot = build_zero_shot_classifier(clip_model, tokenizer_of(clip_model).encode, names, [template])
    learner = ClassAwareContext(torch.randn(TOKENS, sizes.text_width) * 0.02, zero_shot, layer)
    texts = prompt_texts(clip_model, names, _PROMPT.get(dataset, "X X X X {}."))
    return GuidedModel(clip_model, learner, texts, [HOST], w, zero_shot)


@TRAINER_REGISTRY.register()
class TCP(HostTrainer):
    """Textual-based Class-aware Prompt tuning, https://arxiv.org/abs/2311.18231"""

    node = "TCP"
    learner_name = "prompt_learner"
    fields = (
        Field(
            "LAYER", 8, "text block whose input gets the class tokens", least=1, most=255, limits=("last_text_layer",)
        ),
        Field("W", 8.0, "weight of the distance to the zero-shot class vectors", least=0, most=10**6),
        PREC,
    )
    reads_dataset = True

    @classmethod
    def make_model(cls, clip_model: StockModule, names: Sequence[str], options: dict[str, Any]) -> PromptedCLIP:
        return build(clip_model, names, **options)

    def build_model(self) -> None:
        """Build the model; Adam gets the published epsilon."""
        super().build_model()
        for group in self.optim.param_groups:
            if "eps" in group:
                group["eps"] = EPSILON
