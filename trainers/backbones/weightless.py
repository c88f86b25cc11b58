"""CLIPs of OpenAI's sizes without their weights, to count what computing with them costs."""

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator

import torch

from ..engine.blocks import StockModule
from ..engine.sizes import ClipSizes
from .errors import BackboneError
from .openai import STOCK_DESIGN, stand_in
from .package import clip_package
from .sizes import PATCHES, sizes_of

_VOCABULARY = 49408


@contextlib.contextmanager
def weightless(drawn: bool = False) -> Iterator[None]:
    """Let `load_clip` return models without weights for OpenAI's names.

    It does so while the block runs; nothing is downloaded.

    Args:
        drawn: draw small weights, to compute with them; otherwise they are on the device `meta`.
    """
    token = stand_in.set(functools.partial(_empty_clip, drawn=drawn))
    try:
        yield
    finally:
        stand_in.reset(token)


def _empty_clip(name: str, drawn: bool) -> StockModule | None:
    """Build a frozen stock CLIP; None if the name is a file's.

    Raises:
        BackboneError: it is a ResNet, which has no prompt tokens.
    """
    sizes = sizes_of(name) if name in PATCHES else None
    if sizes is None:
        return None
    if not sizes.vision_layers:
        raise BackboneError(f"backbone {name!r}: a ResNet; expected a ViT to count its operations without its weights")
    model = copy.deepcopy(_meta_clip(sizes, PATCHES[name])).requires_grad_(False).eval()
    if drawn:
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    model.fingerprint, model.special_tokens, model.described = "", (_VOCABULARY - 2, _VOCABULARY - 1), {}
    return model


@functools.cache
def _meta_clip(sizes: ClipSizes, patch: int) -> StockModule:
    """Build a stock CLIP on the device `meta`, in float32."""
    CLIP = clip_package("model").CLIP
    vision = (sizes.image, sizes.vision_layers, sizes.vision_width, patch)
    text = (sizes.context, _VOCABULARY, sizes.text_width, sizes.text_width // 64, sizes.text_layers)
    design = {"design_details": STOCK_DESIGN} if "design_details" in inspect.signature(CLIP.__init__).parameters else {}
    with torch.device("meta"):
        return CLIP(sizes.embedding, *vision, *text, **design).float()
