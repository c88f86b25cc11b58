"""What the models of the CoOp family have in common, found in a model that somebody else built.

CoOp (github.com/KaiyangZhou/CoOp) set the names, the others kept them: CLIP's two towers are a model's `image_encoder`
and `text_encoder`, its prompts are its `prompt_learner`, its texts the `tokenized_prompts`.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..engine.vision import is_transformer

logger = logging.getLogger(__name__)

_ENCODERS = {
    "image_encoder": ("ln_pre", "transformer.resblocks", "ln_post", "proj"),
    "text_encoder": ("positional_embedding", "transformer.resblocks", "ln_final", "text_projection"),
}
_BLOCK = ("attn", "ln_1", "ln_2", "mlp")


class HostError(ValueError):
    """A host's model that no boosting prompt can be brought into; says why."""


class Parts(NamedTuple):
    """The parts of a host's model.

    Attributes:
        model: the model itself, out of an `nn.DataParallel`.
        image: its `image_encoder`; text: its `text_encoder`.
        learner: its `prompt_learner`, None if it has none.
    """

    model: nn.Module
    image: nn.Module
    text: nn.Module
    learner: nn.Module | None


def find_parts(model: nn.Module) -> Parts:
    """The family-shaped parts of a model.

    Raises:
        HostError: names all that is missing, or of another kind.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    image = getattr(model, "image_encoder", None)
    if image is not None and not is_transformer(image):
        raise HostError(
            f"the image encoder of {type(model).__name__} is a {type(image).__name__}, which has no vision tokens to "
            "cascade with: choose a ViT as MODEL.BACKBONE.NAME"
        )
    missing = []
    for encoder, names in _ENCODERS.items():
        missing += [f"{encoder}.{name}" for name in names if _look_up(model, f"{encoder}.{name}") is None]
        for i, block in enumerate(_look_up(model, f"{encoder}.transformer.resblocks") or ()):
            missing += [f"{encoder}.transformer.resblocks.{i}.{name}" for name in _missing_in(block)]
    if missing:
        raise HostError(
            f"the model {type(model).__name__} is not built like those of the CoOp family, so CasPL cannot enter it: "
            f"it lacks {', '.join(missing)}"
        )
    return Parts(model, image, model.text_encoder, getattr(model, "prompt_learner", None))


def _look_up(owner, path: str):
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def _missing_in(block: nn.Module) -> list[str]:
    missing = [name for name in _BLOCK if not hasattr(block, name)]
    attn = getattr(block, "attn", None)
    if attn is not None and (not isinstance(attn, nn.MultiheadAttention) or attn.batch_first):
        missing.append("attn as an nn.MultiheadAttention of tensors (T, N, d)")
    return missing


def texts(parts: Parts) -> Tensor | None:
    """The host's texts as token ids (C, 77), EOT the highest of each row; None if the host does not tell."""
    for owner in (parts.model, parts.learner):
        rows = getattr(owner, "tokenized_prompts", None)
        if isinstance(rows, Tensor) and rows.dim() == 2 and not rows.is_floating_point():
            return rows
    return None


def check_lengths(parts: Parts, tokens: int, class_names: Sequence[str]) -> None:
    """Refuse texts whose EOT has no position any more behind `tokens` more tokens.

    Raises:
        HostError: names the class.
    """
    rows, places = texts(parts), len(parts.text.positional_embedding)
    if rows is None:
        logger.warning(
            "%s has no tokenized_prompts: a class name too long for %d more tokens would go unnoticed",
            type(parts.model).__name__,
            tokens,
        )
        return
    for number, eot in enumerate(rows.argmax(dim=-1).tolist()):
        if eot + tokens >= places:
            name = repr(class_names[number]) if number < len(class_names) else f"number {number}"
            raise HostError(
                f"class name {name} is too long: with all prompts its sequence has {eot + 1 + tokens} tokens, CLIP's "
                f"text tower takes {places}: shorten the name, or use fewer context tokens"
            )


def head_length(parts: Parts) -> int:
    """How many tokens the host has between SOS and the class name: its context, and fixed words behind that.

    Raises:
        HostError: the host does not tell.
    """
    learner = parts.learner
    context = getattr(learner, "ctx", None)
    n_ctx = getattr(learner, "n_ctx", context.shape[-2] if isinstance(context, Tensor) and context.dim() > 1 else None)
    position = getattr(learner, "class_token_position", "end")
    if not isinstance(n_ctx, int) or position not in ("end", "middle", "front"):
        raise HostError(
            f"TRAINER.CASPL.TEXT_ORDER is host_first, but {type(parts.model).__name__} does not tell how many context "
            "tokens stand ahead of the class name (it has no prompt_learner.n_ctx or .ctx): use boosting_first"
        )
    if position != "end":
        return n_ctx // 2 if position == "middle" else 0
    return max(n_ctx, _worded_head(parts))


def _worded_head(parts: Parts) -> int:
    """The same off the host's texts, if it tells where names start; else 0. MaPLe with 2 tokens keeps the words "of a".

    The family's texts end with the class name (`name_lens` tokens), a full stop and EOT. A name that ends with
    punctuation swallows the full stop, so the longest head is the true one; it is the same for all classes.
    """
    rows, lengths = texts(parts), getattr(parts.learner, "name_lens", None)
    if rows is None or lengths is None or len(lengths) != len(rows):
        return 0
    head = max(eot - 2 - length for eot, length in zip(rows.argmax(dim=-1).tolist(), lengths, strict=True))
    alike = torch.equal(rows[:, : 1 + head], rows[:1, : 1 + head].expand(len(rows), -1))
    return head if alike else 0
