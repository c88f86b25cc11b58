"""CLIP models: OpenAI's names and files, open_clip's, Hugging Face's, and the two small ones that ship with this package."""

from .errors import BackboneError, check_finite
from .files import BUILT_IN, find_weights, published_hashes, read_backbone, read_state_dict
from .openai import build_clip, describe, files_of, fingerprint, load_clip, projections
from .package import tokenizer
from .sizes import sizes_of
from .source import source_of
from .tokenizers import tokenizer_by_name, tokenizer_of
from .weightless import weightless

__all__ = [
    "BUILT_IN",
    "BackboneError",
    "build_clip",
    "check_finite",
    "describe",
    "files_of",
    "find_weights",
    "fingerprint",
    "load_clip",
    "projections",
    "published_hashes",
    "read_backbone",
    "read_state_dict",
    "sizes_of",
    "source_of",
    "tokenizer",
    "tokenizer_by_name",
    "tokenizer_of",
    "weightless",
]
