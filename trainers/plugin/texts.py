"""A host's texts: where they end, and where the boosting tokens fit between them."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .checks import close
from .structure import HostError, unwrap

logger = logging.getLogger(__name__)

ATTRIBUTE = "tokenized_prompts"  # the CoOp family's attribute with the token ids of all classes


def tokenized(model: nn.Module) -> Tensor | None:
    """Return the host's texts as token ids (C, T), EOT the highest of each row.

    None if the model does not keep them.
    """
    for owner in (model, getattr(model, "prompt_learner", None)):
        rows = getattr(owner, ATTRIBUTE, None)
        if isinstance(rows, Tensor) and rows.dim() == 2 and not rows.is_floating_point():
            return rows
    return None


def check_lengths(model: nn.Module, places: int, tokens: int, class_names: Sequence[str]) -> bool:
    """Reject texts whose EOT has no position left after `tokens` more tokens.

    Args:
        model: the host's model.
        places: positions of the text tower.
        tokens: n.
        class_names: for the message.

    Returns:
        whether the model keeps its texts; if not, they are checked when the tower runs.

    Raises:
        HostError: names the class.
    """
    rows = tokenized(unwrap(model))
    if rows is None:
        return False
    for number, eot in enumerate(rows.argmax(dim=-1).tolist()):
        if eot + tokens >= places:
            name = repr(class_names[number]) if number < len(class_names) else f"number {number}"
            raise HostError(
                f"class name {name} is too long: with all prompts its sequence has {eot + 1 + tokens} tokens; expected at "
                f"most {places}. Shorten the name, or use fewer context tokens"
            )
    return True


def eot_rows(x: Tensor, table: Tensor, embedding: nn.Embedding) -> Tensor:
    """Find EOT, CLIP's last token, in embedded texts by its value, without waiting for the device.

    Args:
        x: texts with positions (T, N, d).
        table: positions (77, d).
        embedding: the token embedding; its last row is EOT.

    Returns:
        (N,), the row of each text's first EOT, or T in a text without one.
    """
    with torch.no_grad():
        words = x.detach() - table[: len(x), None].to(x.dtype)
        eot = embedding.weight[-1].to(x)
        limit = 8 * torch.finfo(x.dtype).eps * torch.maximum(table.abs().max().to(x), eot.abs().max())
        found = ((words - eot).abs() <= limit).all(dim=-1)
        return torch.where(found.any(dim=0), found.int().argmax(dim=0), len(x))


def ends_in_padding(x: Tensor, table: Tensor, tokens: int) -> bool:
    """Check whether embedded texts (T, N, d) end in the same token, as padding does.

    The last `tokens` rows are compared.
    """
    with torch.no_grad():
        words = x.detach() - table[: len(x), None].to(x.dtype)
        last = words[-max(tokens, 2) :]
        return close(last, last[-1:].expand_as(last), 64)


def head_length(model: nn.Module) -> int:
    """Return how many tokens the host has between SOS and the class name.

    They are its context, and fixed words after it.

    Raises:
        HostError: the model does not keep it.
    """
    model = unwrap(model)
    learner = getattr(model, "prompt_learner", None)
    context = getattr(learner, "ctx", None)
    n_ctx = getattr(learner, "n_ctx", context.shape[-2] if isinstance(context, Tensor) and context.dim() > 1 else None)
    position = getattr(learner, "class_token_position", "end")
    if not isinstance(n_ctx, int) or position not in ("end", "middle", "front"):
        raise HostError(
            f"TRAINER.CASPL.TEXT_ORDER: host_first; expected a host that has prompt_learner.n_ctx or prompt_learner.ctx, "
            f"which {type(model).__name__} does not. Use boosting_first"
        )
    if position != "end":
        return n_ctx // 2 if position == "middle" else 0
    return max(n_ctx, _worded_head(model))


def _worded_head(model: nn.Module) -> int:
    """Return the same from the host's texts, 0 if they do not show it. MaPLe with 2 tokens keeps the words "of a".

    The family's texts end with the class name (`name_lens` tokens), a full stop and EOT. A name that ends with
    punctuation swallows the full stop, so the longest head is the true one; it is the same for all classes.
    """
    rows, lengths = tokenized(model), getattr(getattr(model, "prompt_learner", None), "name_lens", None)
    if rows is None or lengths is None or len(lengths) != len(rows):
        return 0
    head = max(eot - 2 - length for eot, length in zip(rows.argmax(dim=-1).tolist(), lengths, strict=True))
    alike = torch.equal(rows[:, : 1 + head], rows[:1, : 1 + head].expand(len(rows), -1))
    return head if alike else 0
