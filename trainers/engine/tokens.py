"""Class names and templates as tokens, cut the way the CoOp family cuts them."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .blocks import StockModule
from .layout import TextLayout
from .symbols import ClassText, Slot, Symbol, arrange, slots

logger = logging.getLogger(__name__)

Encode = Callable[[str], list[int]]  # CLIP's byte-pair encoder: text to token ids, without SOS and EOT

SOS, EOT = 49406, 49407  # CLIP's vocabulary
HOST, BOOSTING = 0, 1  # numbers of the two prompt groups in every layout


def plain_name(name: str) -> str:
    """A class name as CLIP reads it: underscores are spaces."""
    return name.replace("_", " ")


def host_texts(
    encode: Encode, names: Sequence[str], tokens: int, words: str = "", position: str = "end"
) -> list[ClassText]:
    """A host's sequence for each class: its context tokens, the class name, a full stop and EOT.

    Follows the CoOp repository's `PromptLearner` (github.com/KaiyangZhou/CoOp): the context takes the place of the first
    `tokens` tokens of `words`; what is left of the words stays as fixed words (MaPLe with 2 tokens keeps "of a").

    Args:
        encode: the tokenizer.
        names: the class names.
        tokens: n, the number of context tokens.
        words: the words that the context was initialised from; empty for a random context.
        position: where the class name stands: "end", "middle" (of the context) or "front".

    Raises:
        ValueError: another position, or an empty class name.
    """
    if position not in ("end", "middle", "front"):
        raise ValueError(f"CLASS_TOKEN_POSITION is {position!r}, expected 'end', 'middle' or 'front'")
    context = slots(HOST, tokens)
    fixed = tuple(encode(words)[tokens:])
    return [_host_text(encode, name, context, fixed, position) for name in names]


def _host_text(encode: Encode, name: str, context: tuple[Slot, ...], fixed: tuple[int, ...], position: str):
    length = len(encode(plain_name(name)))
    if not length:
        raise ValueError(f"class name {name!r} is empty: every class needs a name that CLIP can read")
    rest = (*fixed, *encode(plain_name(name) + "."))
    cut = {"end": len(context), "middle": len(context) // 2, "front": 0}[position]
    if position == "end":
        return ClassText(name, (*context, *fixed), (*rest[len(fixed) :], EOT))
    return ClassText(name, context[:cut], (*rest[:length], *context[cut:], *rest[length:], EOT))


def worded_texts(encode: Encode, names: Sequence[str], template: str) -> list[ClassText]:
    """Sequences without any context tokens: a template such as "a photo of a {}." around each class name.

    Raises:
        ValueError: the template has no place for the class name.
    """
    if "{}" not in template:
        raise ValueError(
            f"template {template!r} has no {{}} for the class name: write for example 'a photo of a {{}}.'"
        )
    before = template.split("{}")[0]
    texts = []
    for name in names:
        text = encode(template.replace("{}", plain_name(name)))
        head = encode(before)
        cut = len(head) if text[: len(head)] == head else 0
        texts.append(ClassText(name, tuple(text[:cut]), (*text[cut:], EOT)))
    return texts


def layout_of(
    texts: Sequence[ClassText], boosting: int = 0, order: str = "boosting_first", distinct: Sequence[int] = ()
) -> TextLayout:
    """The layout of these texts, with the places of `boosting` boosting tokens put in (see `arrange`)."""
    sequences: list[tuple[Symbol, ...]] = [(SOS, *arrange(text, slots(BOOSTING, boosting), order)) for text in texts]
    return TextLayout(sequences, [text.name for text in texts], distinct)


def initial_context(model: StockModule, encode: Encode, tokens: int, words: str = "", std: float = 0.02) -> Tensor:
    """A context (n, d) to start from: the embeddings of the first n tokens of `words`, or N(0, std) without words.

    Raises:
        ValueError: fewer words than tokens.
    """
    if not words:
        return torch.randn(tokens, model.ln_final.weight.shape[0]) * std
    ids = encode(words)
    if len(ids) < tokens:
        raise ValueError(
            f"CTX_INIT {words!r} has {len(ids)} tokens, but {tokens} context tokens are asked for: use more words"
        )
    return model.token_embedding(torch.tensor(ids[:tokens])).detach().float().clone()


def words_to_start_from(words: str, tokens: int) -> str:
    """MaPLe's and PromptSRC's rule: words are used for at most 4 tokens, with more the context starts at random."""
    if words and tokens > 4:
        logger.info("CTX_INIT %r is not used: %d context tokens (more than 4) start at random", words, tokens)
        return ""
    return words.replace("_", " ")
