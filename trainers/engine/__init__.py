"""Exact and fast CLIP inference and training with groups of prompt tokens.

The package takes plain arguments and depends on torch alone. Start reading at `text.encode_text` and
`vision.encode_image`.
"""

from .layout import TextLayout
from .model import Encoded, Learner, PromptedCLIP
from .prompts import PromptGroup, Stack, TextStack
from .sizes import ClipSizes, clip_sizes, drop_text_tower
from .symbols import ORDERS, ClassText, Slot
from .text import encode_text
from .tokens import (
    BOOSTING,
    HOST,
    POSITIONS,
    host_texts,
    initial_context,
    layout_of,
    special_tokens,
    worded_texts,
    words_to_start_from,
)
from .vision import encode_image

__all__ = [
    "BOOSTING",
    "HOST",
    "ORDERS",
    "POSITIONS",
    "ClassText",
    "ClipSizes",
    "Encoded",
    "Learner",
    "PromptGroup",
    "PromptedCLIP",
    "Slot",
    "Stack",
    "TextLayout",
    "TextStack",
    "clip_sizes",
    "drop_text_tower",
    "encode_image",
    "encode_text",
    "host_texts",
    "initial_context",
    "layout_of",
    "special_tokens",
    "worded_texts",
    "words_to_start_from",
]
