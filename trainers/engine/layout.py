"""Where every token of a text sequence stands: the order of groups, words and class names, as data.

A class's sequence is a list of *symbols*: the id of a word's token, or a `Slot` that a prompt group fills. A
`TextLayout` splits the sequences of all classes into the part that they share (it is computed once) and what is left.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

CONTEXT_LENGTH = 77
ORDERS = ("boosting_first", "host_first")
# Tokens of padding that are worth less than one more part: few where small kernels are cheap (measured on a CPU), many
# where each costs a launch (estimated).
PART_COST = {"cpu": 8}
PART_COST_ELSEWHERE = 512


class Slot(NamedTuple):
    """Place of token `token` of prompt group `group`."""

    group: int
    token: int


Symbol = int | Slot
Parts = list[tuple[Tensor, int]]  # classes (c,) that run together, and the length of the longest suffix among them


class ClassText(NamedTuple):
    """One class's sequence, without SOS, cut just ahead of the class name.

    Attributes:
        name: the class name, for messages.
        head: what stands ahead of the class name.
        tail: the class name and all that follows, EOT included.
    """

    name: str
    head: tuple[Symbol, ...]
    tail: tuple[Symbol, ...]


def slots(group: int, tokens: int) -> tuple[Slot, ...]:
    """The slots of all `tokens` tokens of a group, in order."""
    return tuple(Slot(group, token) for token in range(tokens))


def arrange(text: ClassText, boosting: Sequence[Slot], order: str) -> tuple[Symbol, ...]:
    """Put the boosting prompt into a host's sequence (without SOS).

    `boosting_first`: ahead of everything the host has, where phase 1 trained it. `host_first`: right ahead of the class
    name, behind whatever the host has there (the published code's layout, github.com/Martinser/CasPL).

    Raises:
        ValueError: another order.
    """
    if order == "boosting_first":
        return (*boosting, *text.head, *text.tail)
    if order == "host_first":
        return (*text.head, *boosting, *text.tail)
    raise ValueError(f"TRAINER.CASPL.TEXT_ORDER is {order!r}, expected one of {', '.join(ORDERS)}")


class TextLayout(nn.Module):
    """The sequences of C classes, split into a shared prefix of P symbols and suffixes of at most S tokens.

    The prefix is the longest one that all classes have in common (at least SOS), at least the EOT is left to the
    suffix. Classes with suffixes about equally long make a *part*, which runs together, padded to its longest. It moves
    with the model it belongs to, but is no part of its state.

    Args:
        sequences: for each class its symbols, SOS first and EOT last.
        names: for each class its name, for messages.
        distinct: groups that have other tokens for each class (CoOp's class-specific context): never shared.
        context_length: the longest sequence that the text tower has positions for.

    Raises:
        ValueError: there is no class, or a sequence is too long.

    Attributes:
        prefix: the P shared symbols. `prefix_words` are the ids of the words among them, `prefix_places` their
            positions; `prefix_groups` the groups, `prefix_slots(group)` their tokens and positions.
        words: (C, S) token ids, 0 at slots and behind EOT.
        eot: (C,) index of EOT in the suffix.
        groups: the groups that have tokens in the suffixes; `slot(group)` is (C, S), -1 where another token stands.
        needed: for each group, how many tokens it must have.
    """

    prefix_words: Tensor
    prefix_places: Tensor
    words: Tensor
    eot: Tensor

    def __init__(
        self,
        sequences: Sequence[Sequence[Symbol]],
        names: Sequence[str],
        distinct: Sequence[int] = (),
        context_length: int = CONTEXT_LENGTH,
    ):
        super().__init__()
        if not sequences:
            raise ValueError("there are no class names: the dataset is empty, or its class subset is")
        for name, sequence in zip(names, sequences, strict=True):
            if len(sequence) > context_length:
                raise ValueError(
                    f"class name {name!r} is too long: with all prompts its sequence has {len(sequence)} tokens, CLIP's "
                    f"text tower takes {context_length}: shorten the name, or use fewer context tokens"
                )
        used = [symbol for sequence in sequences for symbol in sequence if isinstance(symbol, Slot)]
        self.needed = {g: 1 + max(s.token for s in used if s.group == g) for g in _groups(used)}
        shared = _common(sequences, distinct)
        self._split_prefix(tuple(sequences[0][:shared]))
        self._split_suffixes([sequence[shared:] for sequence in sequences])

    def _split_prefix(self, prefix: tuple[Symbol, ...]) -> None:
        self.prefix = prefix
        words = [place for place, symbol in enumerate(prefix) if not isinstance(symbol, Slot)]
        self._index("prefix_words", [prefix[place] for place in words])
        self._index("prefix_places", words)
        self.prefix_groups = _groups(prefix)
        for group in self.prefix_groups:
            places = [place for place, symbol in enumerate(prefix) if _is_in(symbol, group)]
            self._index(f"prefix_tokens{group}", [symbol.token for symbol in prefix if _is_in(symbol, group)])
            self._index(f"prefix_places{group}", places)

    def _split_suffixes(self, suffixes: list[Sequence[Symbol]]) -> None:
        length = max(map(len, suffixes))
        self.groups = _groups(symbol for suffix in suffixes for symbol in suffix)
        self._index("eot", [len(suffix) - 1 for suffix in suffixes])
        self._index("words", [_padded([0 if isinstance(s, Slot) else s for s in row], length, 0) for row in suffixes])
        for group in self.groups:
            rows = [[s.token if _is_in(s, group) else -1 for s in row] for row in suffixes]
            self._index(f"slot{group}", [_padded(row, length, -1) for row in rows])
        self._lengths = [len(suffix) for suffix in suffixes]
        self._arrangements: dict[torch.device, tuple[Parts, Tensor]] = {}

    def _index(self, name: str, values: list) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

    def prefix_slots(self, group: int) -> tuple[Tensor, Tensor]:
        """The tokens of `group` that the prefix has, and the positions where they stand: (n,) each."""
        return getattr(self, f"prefix_tokens{group}"), getattr(self, f"prefix_places{group}")

    def slot(self, group: int) -> Tensor:
        """(C, S) index of the group's token that stands there, -1 where another token does."""
        return getattr(self, f"slot{group}")

    @property
    def parts(self) -> Parts:
        """Each part's classes (c,), in rising order, and the length of its longest suffix."""
        return self._arranged()[0]

    @property
    def place(self) -> Tensor:
        """(C,) where each class stands when the parts follow each other."""
        return self._arranged()[1]

    def _arranged(self) -> tuple[Parts, Tensor]:
        device = self.eot.device
        if device not in self._arrangements:
            parts = _parts(self._lengths, PART_COST.get(device.type, PART_COST_ELSEWHERE))
            found = [(torch.tensor(part, device=device), max(self._lengths[c] for c in part)) for part in parts]
            self._arrangements[device] = found, torch.cat([classes for classes, _ in found]).argsort()
        return self._arrangements[device]

    def __len__(self) -> int:
        return len(self.eot)


def _common(sequences: Sequence[Sequence[Symbol]], distinct: Sequence[int]) -> int:
    """Length of the longest prefix that all sequences share; at least one symbol is left over in each."""
    limit = min(map(len, sequences)) - 1
    for place in range(limit):
        symbol = sequences[0][place]
        if isinstance(symbol, Slot) and symbol.group in distinct:
            return place
        if any(sequence[place] != symbol for sequence in sequences):
            return place
    return limit


def _parts(lengths: Sequence[int], cost: int) -> list[list[int]]:
    """Classes, given their suffixes' lengths, in parts with as little padding as their number is worth, short ones first.

    A part costs its tokens, padding included, and `cost` more. Dynamic programming: `best[i]` is the least that the i
    shortest lengths cost together.
    """
    counts = Counter(lengths)
    found = sorted(counts)
    best, start = [0], [0]
    for end, longest in enumerate(found, 1):
        costs = [best[i] + longest * sum(counts[n] for n in found[i:end]) + cost for i in range(end)]
        best.append(min(costs))
        start.append(costs.index(best[-1]))
    parts: list[list[int]] = []
    end = len(found)
    while end:
        within = found[start[end] : end]
        parts.insert(0, [c for c, length in enumerate(lengths) if length in within])
        end = start[end]
    return parts


def _groups(symbols: Iterable[Symbol]) -> list[int]:
    return sorted({symbol.group for symbol in symbols if isinstance(symbol, Slot)})


def _is_in(symbol: Symbol, group: int) -> TypeGuard[Slot]:
    return isinstance(symbol, Slot) and symbol.group == group


def _padded(row: list[int], length: int, filling: int) -> list[int]:
    return row + [filling] * (length - len(row))
