"""Tokenise class names and templates the way the CoOp family does."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .blocks import StockModule
from .layout import CONTEXT_LENGTH, TextLayout
from .symbols import ClassText, Slot, Symbol, arrange, slots

logger = logging.getLogger(__name__)

Encode = Callable[[str], list[int]]  # CLIP's byte-pair encoder: token ids of a text, without SOS and EOT

SOS, EOT = 49406, 49407  # in CLIP's vocabulary
HOST, BOOSTING = 0, 1  # the two prompt groups
POSITIONS = ("end", "middle", "front")  # of the class name relative to a host's context


def plain_name(name: str) -> str:
    """Return a class name with spaces for underscores."""
    return name.replace("_", " ")


def host_texts(
    encode: Encode, names: Sequence[str], tokens: int, words: str = "", position: str = "end", eot: int = EOT
) -> list[ClassText]:
    """Build a host's sequence for each class: context tokens, class name, full stop and EOT.

    The context replaces the first `tokens` tokens of `words`; the remaining words stay fixed (MaPLe with 2 tokens keeps
    "of a"), as in the CoOp repository's `PromptLearner` (github.com/KaiyangZhou/CoOp).

    Args:
        encode: CLIP's byte-pair encoder.
        names: the class names.
        tokens: n, the number of context tokens.
        words: the words that initialise the context; empty for a random context.
        position: position of the class name, one of `POSITIONS`: after, within or before the context.
        eot: id of the last token of every sequence.

    Raises:
        ValueError: the position is unknown, or a class name is empty.
    """
    if position not in POSITIONS:
        raise ValueError(f"position: {position!r}; expected one of {', '.join(POSITIONS)}")
    context = slots(HOST, tokens)
    fixed = tuple(encode(words)[tokens:])
    return [_host_text(encode, name, context, fixed, position, eot) for name in names]


def _host_text(
    encode: Encode, name: str, context: tuple[Slot, ...], fixed: tuple[int, ...], position: str, eot: int
) -> ClassText:
    length = len(encode(plain_name(name)))
    if not length:
        raise ValueError(f"class name {name!r}: no tokens; expected a name that CLIP can read. Rename the class")
    rest = (*fixed, *encode(plain_name(name) + "."))
    cut = {"end": len(context), "middle": len(context) // 2, "front": 0}[position]
    if position == "end":
        return ClassText(name, (*context, *fixed), (*rest[len(fixed) :], eot))
    return ClassText(name, context[:cut], (*rest[:length], *context[cut:], *rest[length:], eot))


def worded_texts(encode: Encode, names: Sequence[str], template: str, eot: int = EOT) -> list[ClassText]:
    """Build sequences without context tokens from a template such as "a photo of a {}.".

    Args:
        encode: CLIP's byte-pair encoder.
        names: the class names.
        template: a text with {} for the class name.
        eot: id of the last token of every sequence.

    Raises:
        ValueError: the template has no {}.
    """
    if "{}" not in template:
        raise ValueError(
            f"template: {template!r}; expected a {{}} for the class name. Write for example 'a photo of a {{}}.'"
        )
    before = template.split("{}")[0]
    texts = []
    for name in names:
        text = encode(template.replace("{}", plain_name(name)))
        head = encode(before)
        cut = len(head) if text[: len(head)] == head else 0
        texts.append(ClassText(name, tuple(text[:cut]), (*text[cut:], eot)))
    return texts


def layout_of(
    texts: Sequence[ClassText],
    boosting: int = 0,
    order: str = "boosting_first",
    distinct: Sequence[int] = (),
    context_length: int = CONTEXT_LENGTH,
    sos: int = SOS,
) -> TextLayout:
    """Build the layout of the texts with a boosting prompt.

    Args:
        texts: the sequence of each class.
        boosting: number of boosting tokens.
        order: their position, one of `ORDERS` (see `arrange`).
        distinct: groups with separate tokens for each class.
        context_length: number of positions of the text tower.
        sos: id of the first token of every sequence.

    Raises:
        ValueError: the list of classes is empty, a sequence is too long, or the order is unknown.
    """
    sequences: list[tuple[Symbol, ...]] = [(sos, *arrange(text, slots(BOOSTING, boosting), order)) for text in texts]
    return TextLayout(sequences, [text.name for text in texts], distinct, context_length)


def special_tokens(model: StockModule) -> tuple[int, int]:
    """Return the ids of SOS and EOT.

    They are `model.special_tokens` if it is set, else the last two of the vocabulary.
    """
    vocabulary = len(model.token_embedding.weight)
    return getattr(model, "special_tokens", None) or (vocabulary - 2, vocabulary - 1)


def initial_context(model: StockModule, encode: Encode, tokens: int, words: str = "", std: float = 0.02) -> Tensor:
    """Return the initial context tokens.

    Args:
        model: `clip.model.CLIP`.
        encode: CLIP's byte-pair encoder.
        tokens: n, the number of context tokens.
        words: words whose embeddings initialise the context; empty for a random context.
        std: standard deviation of a random context.

    Returns:
        (n, d), in float32.

    Raises:
        ValueError: `words` has fewer than `tokens` tokens.
    """
    if not words:
        return torch.randn(tokens, model.ln_final.weight.shape[0]) * std
    ids = encode(words)
    if len(ids) < tokens:
        raise ValueError(
            f"initial words {words!r}: {len(ids)} tokens; expected at least {tokens}, the context tokens. Use more words"
        )
    return model.token_embedding(torch.tensor(ids[:tokens])).detach().float().clone()


def words_to_start_from(words: str, tokens: int) -> str:
    """Return the words that initialise a context of `tokens` tokens.

    None for more than 4 (MaPLe and PromptSRC).
    """
    if words and tokens > 4:
        logger.info("Initial words %r not used: %d context tokens (more than 4) are drawn at random", words, tokens)
        return ""
    return words.replace("_", " ")
