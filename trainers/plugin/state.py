"""The state of a tower's forward passes."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .checks import Trace


@dataclass
class Pass:
    """The progress of one forward pass through the blocks.

    Attributes:
        tokens: the boosting tokens at the current block's input, (n, 1 or N, d).
        checking: whether this pass is verified.
        kind: whether the block trains, and whether the pass has gradients; each kind is verified.
        index: the current block, -1 before the first; block: that block.
        inside: whether the block is running.
        rows: whether the tokens are rows of its sequence.
        host: T of its attention.
        attended: what the attention returned for carried tokens, (n, N, d).
        own: True while the tokens go through the block's modules, so that hooks on them do nothing.
        hidden: whether the host's tokens cannot see the boosting tokens (`TowerHooks._check_rows`).
        grad: whether the door opened with gradients.
        task: the backward pass that it belongs to (gradient checkpointing), -1 for a forward pass.
        part: whether only a part of its block runs again, up to the attention (gradient checkpointing).
        start: the door, the norm before the blocks and the dtype it got.
    """

    tokens: Tensor
    checking: bool
    index: int = -1
    block: nn.Module | None = None
    inside: bool = False
    rows: bool = False
    host: int = 0
    attended: Tensor | None = None
    own: bool = False
    hidden: bool = False
    grad: bool = False
    task: int = -1
    part: bool = False
    kind: tuple[bool, bool] = (False, False)
    start: tuple = ()
    trace: Trace = field(default_factory=Trace)

    @contextlib.contextmanager
    def through_host(self) -> Iterator[None]:
        """Let the tokens pass through the host's modules without effect of the hooks on these."""
        self.own = True
        try:
            yield
        finally:
            self.own = False


@dataclass
class State:
    """A thread's state of a tower.

    `nn.DataParallel` runs replicas of the modules in threads, with the same hooks.

    Attributes:
        open: forward passes of the door that have begun and not ended; door: the door of the last one.
        grad: whether it began with gradients.
        run: the pass through the blocks, if any.
        entry, given, entered: the norm before the blocks, the dtype it got, and what it returned.
    """

    open: int = 0
    door: nn.Module | None = None
    grad: bool = False
    run: Pass | None = None
    entry: nn.Module | None = None
    given: torch.dtype = torch.float32
    entered: Tensor | None = None
