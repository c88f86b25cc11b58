"""Text sequences of all classes as data: the prefix they share and the suffix of each class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .plan import Plan
from .rows import Rows, rows_of
from .symbols import Slot, Symbol, group_of, groups_of

CONTEXT_LENGTH = 77


class TextLayout(nn.Module):
    """The sequences of C classes, split into a shared prefix of P symbols and one suffix per class.

    The prefix is the longest that all sequences have in common; a suffix has at least the EOT. The index tensors are
    buffers, so they move with the model, but they are not part of its state dict.

    Args:
        sequences: the symbols of each class, from SOS to EOT.
        names: the name of each class, for error messages.
        distinct: groups with separate tokens for each class (CoOp's class-specific context); they are never shared.
        context_length: number of positions of the text tower.

    Raises:
        ValueError: the list of classes is empty, or a sequence has more than `context_length` symbols.

    Attributes:
        prefix: the P shared symbols.
        prefix_words: ids of the word tokens in the prefix; prefix_places: their positions.
        prefix_groups: groups with slots in the prefix; `prefix_slots` returns their tokens and positions.
        suffixes: the remaining symbols of each class.
        longest: S, the length of the longest suffix.
        needed: number of tokens that each group must have.
        distinct: the groups given as `distinct`.
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
            raise ValueError("class names: empty list; expected at least one. Check the dataset and its class subset")
        for name, sequence in zip(names, sequences, strict=True):
            if len(sequence) > context_length:
                raise ValueError(
                    f"class name {name!r}: too long, {len(sequence)} tokens with all prompts; expected at most "
                    f"{context_length}, the text tower's positions. Shorten the name or use fewer prompt tokens"
                )
        used = [symbol for sequence in sequences for symbol in sequence if isinstance(symbol, Slot)]
        self.needed = {g: 1 + max(s.token for s in used if s.group == g) for g in groups_of(used)}
        self.distinct = frozenset(distinct)
        shared = _common(sequences, distinct)
        self._split_prefix(tuple(sequences[0][:shared]))
        self.suffixes = [tuple(sequence[shared:]) for sequence in sequences]
        self.longest = max(map(len, self.suffixes))
        self._rows: dict[tuple[range, torch.device], Rows] = {}
        self._plans: dict[tuple, Plan] = {}

    def _split_prefix(self, prefix: tuple[Symbol, ...]) -> None:
        self.prefix = prefix
        words = [place for place, symbol in enumerate(prefix) if not isinstance(symbol, Slot)]
        self._index("prefix_words", [prefix[place] for place in words])
        self._index("prefix_places", words)
        self.prefix_groups = groups_of(prefix)
        for group in self.prefix_groups:
            places = [place for place, symbol in enumerate(prefix) if group_of(symbol) == group]
            tokens = [symbol.token for symbol in prefix if isinstance(symbol, Slot) and symbol.group == group]
            self._index(f"prefix_tokens{group}", tokens)
            self._index(f"prefix_places{group}", places)

    def _index(self, name: str, values: list) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

    def prefix_slots(self, group: int) -> tuple[Tensor, Tensor]:
        """Return the indices of the tokens of `group` in the prefix, and their positions, (n,) each."""
        return getattr(self, f"prefix_tokens{group}"), getattr(self, f"prefix_places{group}")

    def rows(self, classes: range | None = None) -> Rows:
        """Return the suffixes of some classes as rows, or of all classes by default."""
        key = classes or range(len(self)), self.prefix_words.device
        self._build_rows(*key)
        return self._rows[key]

    def plan(self, depths: tuple[int, ...], layers: int, classes: range | None = None) -> Plan:
        """Return the plan of the GPU implementation for some classes, or for all classes by default.

        Args:
            depths: number of layers of each group.
            layers: number of blocks of the text tower.
            classes: the classes to encode.
        """
        key = depths, layers, classes or range(len(self)), self.prefix_words.device
        self._build_plan(*key)
        return self._plans[key]

    @torch.compiler.assume_constant_result
    def _build_rows(self, classes: range, device: torch.device) -> None:
        """Build the rows on the first call; a compiler runs it at compile time."""
        if (classes, device) not in self._rows:
            with torch.inference_mode(False):  # cached by an evaluation, they may be used by training later
                self._rows[classes, device] = rows_of(self.suffixes, self.distinct, classes, device)

    @torch.compiler.assume_constant_result
    def _build_plan(self, depths: tuple[int, ...], layers: int, classes: range, device: torch.device) -> None:
        """Build the plan on the first call; a compiler runs it at compile time."""
        key = depths, layers, classes, device
        if key not in self._plans:
            with torch.inference_mode(False):  # cached by an evaluation, it may be used by training later
                self._plans[key] = Plan(self, *key)

    def __len__(self) -> int:
        return len(self.suffixes)


def _common(sequences: Sequence[Sequence[Symbol]], distinct: Sequence[int]) -> int:
    """Return the length of the longest shared prefix that leaves at least one symbol in every sequence."""
    limit = min(map(len, sequences)) - 1
    for place in range(limit):
        symbol = sequences[0][place]
        if group_of(symbol) in distinct:
            return place
        if any(sequence[place] != symbol for sequence in sequences):
            return place
    return limit
