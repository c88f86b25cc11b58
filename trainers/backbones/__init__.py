"""CLIP models: OpenAI's names and files, and the two small models that ship with this package."""

from .errors import BackboneError, check_finite
from .files import BUILT_IN, find_weights, published_hashes, read_backbone, read_state_dict
from .openai import build_clip, describe, fingerprint, load_clip, projections
from .package import tokenizer
from .sizes import sizes_of

__all__ = [
    "BUILT_IN",
    "BackboneError",
    "build_clip",
    "check_finite",
    "describe",
    "find_weights",
    "fingerprint",
    "load_clip",
    "projections",
    "published_hashes",
    "read_backbone",
    "read_state_dict",
    "sizes_of",
    "tokenizer",
]
