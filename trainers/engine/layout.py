"""Where every token of a text sequence stands, as data: what all classes share, and what is left of each."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .rows import Rows, rows_of
from .symbols import Slot, Symbol, groups_of, is_in

CONTEXT_LENGTH = 77


class TextLayout(nn.Module):
    """The sequences of C classes, split into a shared prefix of P symbols and suffixes.

    The prefix is the longest one that all classes have in common (at least SOS), at least the EOT is left to the
    suffix. It moves with the model it belongs to, but is no part of its state.

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
        longest: S, the length of the longest suffix.
        needed: for each group, how many tokens it must have.
        distinct: as given.
    """

    prefix_words: Tensor
    prefix_places: Tensor

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
        self.needed = {g: 1 + max(s.token for s in used if s.group == g) for g in groups_of(used)}
        self.distinct = frozenset(distinct)
        shared = _common(sequences, distinct)
        self._split_prefix(tuple(sequences[0][:shared]))
        self._suffixes = [tuple(sequence[shared:]) for sequence in sequences]
        self.longest = max(map(len, self._suffixes))
        self._rows: dict[tuple[range, torch.device], Rows] = {}

    def _split_prefix(self, prefix: tuple[Symbol, ...]) -> None:
        self.prefix = prefix
        words = [place for place, symbol in enumerate(prefix) if not isinstance(symbol, Slot)]
        self._index("prefix_words", [prefix[place] for place in words])
        self._index("prefix_places", words)
        self.prefix_groups = groups_of(prefix)
        for group in self.prefix_groups:
            places = [place for place, symbol in enumerate(prefix) if is_in(symbol, [group])]
            self._index(f"prefix_tokens{group}", [symbol.token for symbol in prefix if is_in(symbol, [group])])
            self._index(f"prefix_places{group}", places)

    def _index(self, name: str, values: list) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

    def prefix_slots(self, group: int) -> tuple[Tensor, Tensor]:
        """The tokens of `group` that the prefix has, and the positions where they stand: (n,) each."""
        return getattr(self, f"prefix_tokens{group}"), getattr(self, f"prefix_places{group}")

    def rows(self, classes: range | None = None) -> Rows:
        """The suffixes of some classes, or of all, as rows."""
        key = classes or range(len(self)), self.prefix_words.device
        if key not in self._rows:
            with torch.inference_mode(False):  # training may use what an evaluation was the first to ask for
                self._rows[key] = rows_of(self._suffixes, self.distinct, *key)
        return self._rows[key]

    def __len__(self) -> int:
        return len(self._suffixes)


def _common(sequences: Sequence[Sequence[Symbol]], distinct: Sequence[int]) -> int:
    """Length of the longest prefix that all sequences share; at least one symbol is left over in each."""
    limit = min(map(len, sequences)) - 1
    for place in range(limit):
        symbol = sequences[0][place]
        if is_in(symbol, distinct):
            return place
        if any(sequence[place] != symbol for sequence in sequences):
            return place
    return limit
