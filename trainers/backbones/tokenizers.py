"""The tokenizer of a backbone, by its model or its name."""

from typing import Any

from ..engine.blocks import StockModule
from .package import tokenizer
from .source import source_of


def tokenizer_of(model: StockModule) -> Any:
    """Return the tokenizer of a loaded CLIP: its own, or that of the `clip` package."""
    return getattr(model, "tokenizer", None) or tokenizer()


def tokenizer_by_name(name: str) -> Any:
    """Return the tokenizer of a backbone that is not loaded yet.

    Raises:
        BackboneError: its configuration cannot be used.
    """
    source = source_of(name)
    return (None if source is None else source.tokenizer) or tokenizer()
