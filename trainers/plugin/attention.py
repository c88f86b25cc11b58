"""Give a block's attention more tokens than its caller knows, and cut them from what it returns.

T host tokens, n boosting tokens, N sequences. The boosting tokens are the last ones of every tensor; their place in the
sequence is in the mask: they follow the host's first `ahead` tokens.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .structure import PartError

_MASKS = ("attn_mask", "attention_mask", "mask")
_SEPARATE = (("query", "key", "value"), ("q", "k", "v"))  # names of queries, keys and values


@dataclass(frozen=True)
class Place:
    """Where the boosting tokens are, for masks.

    Attributes:
        tokens: n.
        ahead: how many host tokens precede them; in a vision tower, which has no order, 1.
        causal: whether no token sees a later one (text).
        hidden: whether no host token sees them (for a comparison with the block alone).
    """

    tokens: int
    ahead: int
    causal: bool
    hidden: bool = False


def signature(attn: nn.Module) -> inspect.Signature:
    """Signature of an attention's forward pass, without `self`."""
    function = getattr(attn.forward, "__func__", None)
    return _signature(function, True) if function else _signature(attn.forward, False)


@functools.lru_cache(maxsize=64)
def _signature(function: Callable, is_method: bool) -> inspect.Signature:
    found = inspect.signature(function)
    return found.replace(parameters=list(found.parameters.values())[1:]) if is_method else found


class AttentionCall:
    """The arguments of one call of an attention.

    Attributes:
        query: the tensor of the tokens that ask.
        axis: the dimension of the tokens, 0 or 1.

    Raises:
        PartError: keys or values come from other tokens than the queries, or no argument is a sequence.
    """

    def __init__(self, attn: nn.Module, args: tuple, kwargs: dict, axis: int):
        parameters = signature(attn).parameters
        self._bound = signature(attn).bind(*args, **kwargs)
        self._arguments = self._bound.arguments
        self._separate = next((names for names in _SEPARATE if set(names) <= set(parameters)), ())
        self._mask = next((name for name in _MASKS if name in parameters), "")
        self._variadic = next((p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD), "")
        self._sequences = self._separate or tuple(name for name in self._arguments if name not in _MASKS)[:1]
        query = self._arguments.get(self._sequences[0]) if self._sequences else None
        if not isinstance(query, Tensor) or query.dim() != 3:
            raise PartError(
                f"{type(attn).__name__}{signature(attn)}: expected self-attention, attn(x, x, x) or attn(x)"
            )
        self.query, self.axis = query, axis
        if any(self._arguments.get(name) is not query for name in self._sequences):
            raise PartError(
                f"{type(attn).__name__}: its keys and values come from other tokens than its queries; expected "
                "self-attention, attn(x, x, x)"
            )

    def extend(self, tokens: Tensor, asking: bool, place: Place) -> int:
        """Append tokens (n, 1 or N, d), normalised, as keys and values, and as queries if `asking`.

        Returns:
            the number of rows that the attention will return for them: n or 0.
        """
        shape = list(self.query.shape)
        shape[self.axis] = place.tokens
        tokens = (tokens if self.axis == 0 else tokens.transpose(0, 1)).to(self.query.dtype).expand(shape)
        keys = torch.cat([self.query, tokens], dim=self.axis)
        asking = asking or not self._separate  # one argument for queries, keys and values
        host = self.query.shape[self.axis]
        self._arguments |= dict.fromkeys(self._sequences, keys)
        if not asking:
            self._arguments[self._sequences[0]] = self.query
        self.widen(host, asking, place)
        return place.tokens if asking else 0

    def widen(self, host: int, asking: bool, place: Place) -> None:
        """Widen every argument (..., T, T) to the host's T tokens and the boosting tokens, masks and others."""
        others = self._arguments.get(self._variadic, {})
        masked = False
        for arguments in (self._arguments, others):
            for name, value in list(arguments.items()):
                if name in self._sequences or not isinstance(value, Tensor) or value.dim() < 2:
                    continue
                value = _host_part(value, host, place.tokens)
                if name in _MASKS:
                    masked = True
                    arguments[name] = widen_mask(value, asking, place)
                elif value.shape[-1] == host:
                    rows = place.tokens if asking and value.shape[-2] == host and "padding" not in name else 0
                    arguments[name] = F.pad(value, (0, place.tokens, 0, rows))  # zeros add and hide nothing
        if place.causal and not masked:
            self._make_causal(host, asking, place, others)
        elif place.hidden and not masked:
            self._set_mask(self.query.new_zeros(host, host), asking, place)

    def _make_causal(self, host: int, asking: bool, place: Place, others: dict) -> None:
        """Write the causal mask that the caller left to the attention (`is_causal=True`)."""
        flags = [arguments for arguments in (self._arguments, others) if arguments.get("is_causal")]
        if not flags or not self._mask:
            raise PartError(
                "its attention gets no causal mask; expected an argument attn_mask (T, T) as in CLIP's text tower: without it "
                "the boosting tokens have no place among the words"
            )
        for arguments in flags:
            arguments["is_causal"] = False
        self._set_mask(self.query.new_full((host, host), float("-inf")).triu(1), asking, place)

    def _set_mask(self, mask: Tensor, asking: bool, place: Place) -> None:
        mask = widen_mask(mask, asking, place)
        self._arguments[self._mask] = mask if self._separate else mask[None, None]

    def arguments(self) -> tuple[tuple, dict]:
        """Return the arguments to call the attention with."""
        return self._bound.args, self._bound.kwargs


def _host_part(value: Tensor, host: int, tokens: int) -> Tensor:
    """Return the host's rows and columns of an argument that the block made for all tokens."""
    if value.shape[-1] == host + tokens:
        value = value[..., :host]
    return value[..., :host, :] if value.dim() > 1 and value.shape[-2] == host + tokens else value


def widen_mask(mask: Tensor, asking: bool, place: Place) -> Tensor:
    """Add the boosting tokens to a mask (..., T, T), additive or boolean, for each head or for all.

    Boosting tokens see what the host's token before the first of them sees, and earlier boosting tokens.

    Args:
        mask: the host's mask. In boolean masks, what its first element is means "visible".
        asking: whether the boosting tokens are queries too.
        place: where they are.

    Returns:
        (..., T, T + n), or (..., T + n, T + n) if `asking`.
    """
    n, host = place.tokens, mask.shape[-1]
    rows = mask.shape[-2]
    boolean = mask.dtype == torch.bool
    own = torch.zeros(rows + (n if asking else 0), n, dtype=torch.bool, device=mask.device)  # True where hidden
    if place.causal:
        own[: place.ahead] = True
        own[rows:] = torch.ones_like(own[rows:]).triu(1)
    if place.hidden:
        own[:rows] = True
    if asking:
        mask = torch.cat([mask, mask[..., place.ahead - 1 : place.ahead, :].expand(*mask.shape[:-2], n, host)], dim=-2)
    if boolean:
        columns = own ^ mask[..., :1, :1]
    else:
        columns = torch.zeros_like(own, dtype=mask.dtype).masked_fill(own, float("-inf"))
    return torch.cat([mask, columns.expand(*mask.shape[:-2], *own.shape)], dim=-1)


def cut(output: Any, host: int, tokens: int, axis: int) -> tuple[Any, Tensor]:
    """Cut the boosting tokens from what an attention or a block returned.

    Args:
        output: a tensor, or a tuple or list of tensors and others.
        host: T; tokens: n; axis: dimension of the tokens in tensors (T + n, N, d).

    Returns:
        the host's part in the same shape, and the boosting tokens' rows (n, N, d) of the first tensor.
    """
    rows: list[Tensor] = []

    def host_part(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not rows:
            rows.append(value.narrow(axis, host, value.shape[axis] - host))
            return value.narrow(axis, 0, host)
        return _host_part(value, host, tokens) if value.dim() > 1 else value

    return replace(output, host_part), rows[0] if axis == 0 else rows[0].transpose(0, 1)


def replace(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to a value, or to every item of a tuple or list."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(function(item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(function(item) for item in value)
    return function(value)


def sequence(args: tuple, kwargs: dict) -> Tensor:
    """Return the sequence (T, N, d) among a block's arguments, which may be the first item of a list."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x)
        return x

    on_sequence(args, kwargs, keep)
    return found[0]


def on_sequence(args: tuple, kwargs: dict, function: Callable[[Tensor], Tensor]) -> tuple[tuple, dict]:
    """Return a block's arguments with a function applied to its sequence."""
    if not args:
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor) and value.dim() == 3)
        return args, kwargs | {name: function(kwargs[name])}
    x, *rest = args
    if isinstance(x, list | tuple):  # MaPLe's blocks take [x, ...]
        return (type(x)([function(x[0]), *x[1:]]), *rest), kwargs
    return (function(x), *rest), kwargs


def first(output: Any) -> Tensor:
    """Return the sequence of what a block or an attention returns.

    Raises:
        PartError: it is not a tensor.
    """
    found = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(found, Tensor):
        raise PartError(f"it returns a {type(output).__name__}; expected the sequence, or a tuple that starts with it")
    return found
