"""Loading CLIP models: OpenAI's names and files, and the two small models that ship with this package."""

from .openai import (
    BUILT_IN,
    BackboneError,
    build_clip,
    describe,
    fingerprint,
    image_size,
    load_clip,
    read_state_dict,
    tokenizer,
)

__all__ = [
    "BUILT_IN",
    "BackboneError",
    "build_clip",
    "describe",
    "fingerprint",
    "image_size",
    "load_clip",
    "read_state_dict",
    "tokenizer",
]
