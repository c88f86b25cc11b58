"""Where the GPU implementation of the text tower puts every token, and which tokens each row attends to."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .symbols import Slot, group_of
from .tree import Tree, tree_of

if TYPE_CHECKING:
    from .layout import TextLayout

ROWS_WITH_PREFIX = 128  # suffix rows that share a copy of the prefix; balances attention against repeated prefixes
COPIES = 8  # with more copies than this, groups share a single one, which takes more launches and fewer operations
ROWS = 96  # suffix rows of such a group


class Filled(NamedTuple):
    """Rows of one prompt group that are filled with its tokens.

    Attributes:
        rows: (m,), the rows.
        tokens: (m,), the token of each row.
        classes: (m,), the class of each row, for groups with separate tokens per class.
        positions: (m,), the position of each row in the sequence.
    """

    rows: Tensor
    tokens: Tensor
    classes: Tensor
    positions: Tensor


class Passing(NamedTuple):
    """Tokens of one prompt group in the prefix that need no row.

    The next block replaces them.

    Attributes:
        group: the prompt group.
        tokens: (n,), the tokens in the prefix; None for all of the group's tokens in order.
        positions: (n,), their positions.
    """

    group: int
    tokens: Tensor | None
    positions: Tensor


class Plan:
    """The rows of some classes for stacks of given depths.

    All suffixes are distributed over bins of R rows, in which every row can attend to every other. There are K copies of
    the prefix with G bins each, and K = 1 or G = 1: with few rows every bin has its own copy of the prefix, with many
    rows all bins share one copy. The prefix' own rows are the last H rows of each copy. Rows without a token fill the
    bins up to R; no other row attends to them.

    Args:
        layout: the sequences.
        depths: number of layers of each group.
        layers: L, the number of blocks.
        classes: the classes to encode.
        device: the device of the index tensors.

    Attributes:
        copies: K; groups: G; size: R; held: H.
        words: (K * G * R,), word ids, 0 in rows without a word; positions: (K * G * R,), positions in the sequence.
        read: (K * G * E,), the rows whose output is read, E per bin: the EOTs, filled up with a bin's first row.
        eot: (c,), the place of each class's EOT in `read`.
        suffix: for each group, its rows in the suffixes.
        prefix: for each group that is shallower than the tower, its rows within the prefix.
    """

    def __init__(
        self, layout: "TextLayout", depths: Sequence[int], layers: int, classes: Iterable[int], device: torch.device
    ):
        self.depths, self.layers, self.device = tuple(depths), layers, device
        self.prefix_groups = layout.prefix_groups
        self._split_prefix(layout)
        bins = self._bins(layout, list(classes))
        self._place(layout, bins)
        self._masks: dict[tuple, list[Tensor]] = {}

    def _split_prefix(self, layout: "TextLayout") -> None:
        """Decide which symbols of the prefix have rows: words, and tokens that are carried from some block on."""
        self._length = len(layout.prefix)
        deep = [group for group in self.prefix_groups if self.depths[group] == self.layers]
        self._held = [place for place, symbol in enumerate(layout.prefix) if group_of(symbol) not in deep]
        self.held = len(self._held)
        self._held_groups = [group_of(layout.prefix[place]) for place in self._held]
        self._passing: dict[int, Passing] = {}
        self._places: dict[int, list[int]] = {}  # of the tokens in `_passing`
        for group in self.prefix_groups:
            places = [place for place, symbol in enumerate(layout.prefix) if group_of(symbol) == group]
            tokens = [symbol.token for symbol in layout.prefix if isinstance(symbol, Slot) and symbol.group == group]
            whole = tokens == list(range(layout.needed[group]))
            self._passing[group] = Passing(group, None if whole else self._tensor(tokens), self._tensor(places))
            self._places[group] = places

    def _bins(self, layout: "TextLayout", classes: list[int]) -> list[list[int]]:
        """Distribute the classes over bins; choose K, G and R."""
        tree = tree_of(layout.suffixes, layout.distinct, classes)
        count = _quotient(len(tree.symbols), ROWS_WITH_PREFIX)
        self.copies, self.groups = count, 1
        if count > COPIES:
            count = _quotient(len(tree.symbols), ROWS)
            self.copies, self.groups = 1, count
        reserved = self.held if self.groups > 1 else 0
        size = max(_quotient(len(tree.symbols) + reserved, count), *map(len, tree.paths))
        while len(bins := _pack(tree, size, reserved)) > count:
            size += 1
        self.size = size + self.held - reserved
        bins += [[] for _ in range(count - len(bins))]
        return [[classes[index] for index in members] for members in reversed(bins)]

    def _place(self, layout: "TextLayout", bins: list[list[int]]) -> None:
        """Assign a row to every token and compute the visibility among the rows of each bin."""
        total = len(bins) * self.size
        words, positions = [0] * total, [0] * total
        eot: dict[int, int] = {}
        filled: dict[int, list[tuple[int, int, int, int]]] = {}
        self._visible = torch.zeros(len(bins), self.size, self.size, dtype=torch.bool)  # (bins, R, R)
        self._seen = torch.zeros(len(bins), self.size, dtype=torch.long)  # last prefix position that a row sees
        for number, members in enumerate(bins):
            start, tree = number * self.size, tree_of(layout.suffixes, layout.distinct, members)
            for member, path in zip(members, tree.paths, strict=True):
                eot[member] = start + path[-1]
            self._seen[number, : len(tree.symbols)] = self._length  # suffix rows see the whole prefix
            _mark_ancestors(self._visible[number], tree)
            for node, step, member in _nodes(tree, members):
                symbol, place = tree.symbols[node], self._length + step
                words[start + node] = 0 if isinstance(symbol, Slot) else symbol
                positions[start + node] = place
                if isinstance(symbol, Slot):
                    filled.setdefault(symbol.group, []).append((start + node, symbol.token, member, place))
            if self.groups == 1 or number + 1 == len(bins):
                tail = start + self.size - self.held
                for row, place in enumerate(self._held, tail):
                    symbol = layout.prefix[place]
                    words[row] = 0 if isinstance(symbol, Slot) else symbol
                    positions[row] = place
                    self._seen[number, row - start] = place
        self.words, self.positions = self._tensor(words), self._tensor(positions)
        self._read_eots(bins, eot)
        self.suffix = {g: Filled(*map(self._tensor, zip(*rows, strict=True))) for g, rows in filled.items()}
        self.prefix = {
            group: self._tensor([self.groups * self.size - self.held + row for row in self._rows_of(group)])
            for group in self.prefix_groups
            if self.depths[group] < self.layers
        }

    def _read_eots(self, bins: list[list[int]], eot: dict[int, int]) -> None:
        """Choose the rows that the last block computes, given the row of each class's EOT."""
        most = max(map(len, bins))
        read = [number * self.size for number in range(len(bins)) for _ in range(most)]
        place = {}
        for number, members in enumerate(bins):
            for slot, member in enumerate(members, number * most):
                read[slot], place[member] = eot[member], slot
        self._read = torch.tensor(read)
        self.read, self.eot = self._tensor(read), self._tensor([place[member] for member in sorted(place)])

    def _rows_of(self, group: int) -> list[int]:
        return [row for row, other in enumerate(self._held_groups) if other == group]

    def _tensor(self, values: Iterable[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=self.device)

    def enters(self, group: int, layer: int) -> bool:
        """Check whether the prefix tokens of a group get rows at the input of a block.

        They are carried from there on.
        """
        return layer + 1 == self.depths[group] < self.layers

    def token_of(self, group: int) -> Passing:
        """Return the prefix tokens of a group."""
        return self._passing[group]

    def passing(self, layer: int) -> list[Passing]:
        """Return the prefix tokens that are keys and values of one block only."""
        return [
            self._passing[group]
            for group in self.prefix_groups
            if layer < self.depths[group] and not self.enters(group, layer)
        ]

    def masks(self, dtype: torch.dtype, images: int) -> list[Tensor]:
        """Return the additive attention mask of each block.

        The keys are the R rows of a bin, then the block's passing tokens. If bins share the prefix, the H rows of the
        prefix come first, followed by the passing tokens and the R rows.

        Args:
            dtype: the dtype of the queries.
            images: b, the number of images with separate tokens.

        Returns:
            L masks (b * K * G, 1, R, U), 0 where a query sees a key and -inf elsewhere; the last one (b * K * G, 1, E, U),
            of the rows in `read`.
        """
        self._build_masks(dtype, images)
        return self._masks[dtype, images]

    @torch.compiler.assume_constant_result
    def _build_masks(self, dtype: torch.dtype, images: int) -> None:
        """Build the masks on the first call; a compiler runs it at compile time."""
        if (dtype, images) in self._masks:
            return
        known: dict[tuple, Tensor] = {}
        with torch.inference_mode(False):  # cached by an evaluation, they may be used by training later
            for layer in range(self.layers):
                passing = tuple(each.group for each in self.passing(layer))
                carried = tuple(g is None or layer + 1 >= self.depths[g] for g in self._held_groups)
                last = layer + 1 == self.layers
                key = passing, carried, last
                if key not in known:
                    visible = self._keys(passing, carried)
                    known[key] = self._additive(self._of_read(visible) if last else visible, dtype, images)
                self._masks.setdefault((dtype, images), []).append(known[key])

    def _of_read(self, visible: Tensor) -> Tensor:
        """Select the rows in `read` from (K * G, R, U); returns (K * G, E, U)."""
        return visible.flatten(0, 1)[self._read].unflatten(0, (len(visible), -1))

    def _keys(self, passing: tuple[int, ...], carried: tuple[bool, ...]) -> Tensor:
        """Return (K * G, R, U), True where a query sees a key."""
        hidden = self._length + 1  # a position that no row sees
        held = torch.tensor([p if seen else hidden for p, seen in zip(self._held, carried, strict=True)])
        others = [torch.tensor(self._places[group], dtype=torch.long) for group in passing]
        prefix = torch.cat([held, *others])[None, None] <= self._seen[..., None]  # (K * G, R, H + n)
        if self.groups > 1:
            return torch.cat([prefix, self._visible], dim=-1)
        own, passed = prefix.split([self.held, prefix.shape[-1] - self.held], dim=-1)
        visible = self._visible.clone()
        visible[..., self.size - self.held :] = own
        return torch.cat([visible, passed], dim=-1)

    def _additive(self, visible: Tensor, dtype: torch.dtype, images: int) -> Tensor:
        """Return the mask of visible keys (K * G, R, U) for all images."""
        visible = visible.repeat(images, 1, 1).unsqueeze(1)
        *lead, keys = visible.shape
        mask = torch.zeros(*lead, _quotient(keys, 8) * 8)  # GPU kernels copy masks whose rows are not aligned
        mask[..., :keys].masked_fill_(~visible, float("-inf"))
        return mask.to(self.device, dtype)[..., :keys]


def _quotient(a: int, b: int) -> int:
    return -(-a // b)


def _pack(tree: Tree, size: int, reserved: int) -> list[list[int]]:
    """Distribute the paths of a tree over bins of at most `size` nodes, each where it adds the fewest nodes.

    Args:
        tree: the tree.
        size: the size of a bin.
        reserved: number of nodes that the first bin cannot hold.

    Returns:
        The indices of the paths in each bin.
    """
    nodes: list[set[int]] = [set()]
    bins: list[list[int]] = [[]]
    for index in sorted(range(len(tree.paths)), key=lambda index: tree.paths[index]):
        path = set(tree.paths[index])
        room = [size - len(each) - (0 if number else reserved) for number, each in enumerate(nodes)]
        added = [len(path - each) for each in nodes]
        fitting = [number for number in range(len(bins)) if added[number] <= room[number]]
        if not fitting:
            fitting = [len(bins)]
            nodes.append(set())
            bins.append([])
            added.append(len(path))
        best = min(fitting, key=added.__getitem__)
        nodes[best] |= path
        bins[best].append(index)
    return bins


def _nodes(tree: Tree, members: Sequence[int]) -> Iterable[tuple[int, int, int]]:
    """Yield each node once, with its step in the suffix and the first class that contains it."""
    seen = 0
    for member, path in zip(members, tree.paths, strict=True):
        for step, node in enumerate(path):
            if node == seen:
                yield node, step, member
                seen += 1


def _mark_ancestors(visible: Tensor, tree: Tree) -> None:
    """Set visible[node, ancestor] for every node of the tree and for the node itself."""
    pairs = {(path[step], other) for path in tree.paths for step in range(len(path)) for other in path[: step + 1]}
    queries, keys = torch.tensor(sorted(pairs), dtype=torch.long).view(-1, 2).t()
    visible[queries, keys] = True
