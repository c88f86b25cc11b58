"""Hooks that run boosting tokens through one tower of another toolbox's model.

The tokens are keys and values of each block's attention and the host's own sequence keeps its length, so the
host's indices stay valid. Tokens that the next block does not replace are carried: they are queries too, and pass
through the rest of the block. Two modes, for each block:

- `KEYS`: the rest of the block is taken to be `x + attn(norm_1(x))`, then `x + mlp(norm_2(x))`. It is checked against
  the block's own tensors (`checks.difference`) in passes 0, 1, 2, 4, 8, ... of the tower, counted apart in training
  and evaluation, with and without gradients.
- `ROWS`: the tokens are rows of the block's sequence, so the block computes them as it computes its own. In the same
  passes a copy of the block is run with the tokens hidden, which must leave the host's rows unchanged.
"""

import copy
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .attention import AttentionCall, Place, cut, first, on_sequence, sequence
from .axes import token_axis
from .checks import close, difference, mixing, rows_differ
from .randomness import same_randomness
from .recompute import Memory, check_gradients, graph_task
from .state import Pass, State
from .structure import HostError, Tower, naming
from .texts import ends_in_padding, eot_rows

logger = logging.getLogger(__name__)

TOKENS = "boosting_tokens"  # buffer of each of the first `depth` blocks, with that block's tokens (n, d)
KEYS, ROWS = "keys and values", "rows"


_threads = threading.local()


class TowerHooks:
    """The hooks of one tower.

    Args:
        tower: the tower.
        tokens: the boosting tokens (depth, n, d).
        ahead: how many host tokens precede them (text), SOS included.
    """

    def __init__(self, tower: Tower, tokens: Tensor, ahead: int = 1):
        self.tower, self.ahead = tower, ahead
        self.depth, self.tokens = tokens.shape[:2]
        self.layers = len(tower.blocks)
        self.modes = [KEYS] * self.layers
        self.passes = 0  # complete ones
        self.verified: Counter[tuple[bool, bool]] = Counter()  # the same, in training or not, with gradients or not
        self.outside = 0  # passes through the blocks that did not come through the door
        self._stack = tokens
        self.checked = False  # whether all texts are known to be short enough
        self._fitting: set[torch.Size] = set()  # (T, N) of texts that were checked
        self.tried = False  # whether the tower has run in a copy of the model
        self.ran_in: set[bool] = set()  # `training` of the model's forward passes that used the door
        self.seen = (0, 0)  # `passes` and `outside` after the last one
        self.memory = Memory()
        self.failed = -1  # block of the last pass that ended in an exception
        self._axes: dict[tuple[type, type], int] = {}  # of blocks with an attention, by their types

    def attach(self) -> Iterator[RemovableHandle]:
        """Give the blocks their tokens and register the hooks."""
        tower = self.tower
        device = next(iter(tower.blocks[0].parameters())).device
        yield tower.door.register_forward_pre_hook(self._open)
        yield tower.door.register_forward_hook(self._close, always_call=True)
        if tower.entry is not None:
            yield tower.entry.register_forward_hook(self._note_entry)
        for i, block in enumerate(tower.blocks):
            if i < self.depth:
                block.register_buffer(TOKENS, self._stack[i].detach().to(device), persistent=False)
            attn, norm_1, norm_2, mlp = (getattr(block, name) for name in tower.names)
            yield block.register_forward_pre_hook(partial(self._enter, i), with_kwargs=True)
            yield block.register_forward_hook(partial(self._leave, i), with_kwargs=True)
            yield attn.register_forward_pre_hook(partial(self._before_attention, i), with_kwargs=True)
            yield attn.register_forward_hook(self._after_attention)
            for name, module in (("norm_1", norm_1), ("norm_2", norm_2), ("mlp", mlp)):
                yield module.register_forward_hook(partial(self._note, i, name))

    def detach(self) -> None:
        """Remove the tokens from the blocks."""
        for block in self.tower.blocks:
            if hasattr(block, TOKENS):
                delattr(block, TOKENS)

    @property
    def _state(self) -> State:
        if not hasattr(_threads, "states"):
            _threads.states = {}
        return _threads.states.setdefault(id(self), State())

    @property
    def _run(self) -> Pass | None:
        run = self._state.run
        return run if run is not None and run.inside and not run.own and run.task == graph_task() else None

    def _open(self, door: nn.Module, args) -> None:
        state = self._state
        state.open, state.door, state.grad, state.run = state.open + 1, door, torch.is_grad_enabled(), None

    def _close(self, door: nn.Module, args, output) -> None:
        state = self._state
        state.open -= 1
        if state.run is not None:  # an exception
            self.failed = state.run.index
        state.run = state.entry = state.entered = None

    def _note_entry(self, entry: nn.Module, args, output: Tensor) -> None:
        state = self._state
        state.entry, state.given, state.entered = entry, args[0].dtype, output

    def _note(self, index: int, name: str, module: nn.Module, args, output) -> None:
        if name == "norm_1" and args:
            self.memory.resume_part(self.tower, self._state, index, args[0], attends=False)
        run = self._run
        if run is not None and run.checking and args:
            run.trace.note(name, args[0], output)

    def _enter(self, index: int, block: nn.Module, args: tuple, kwargs: dict):
        """Before a block: begin a pass at the first one; a block's own tokens replace those that came from the last."""
        state = self._state
        with naming(self.tower, index):
            if state.open:
                self._find_axis(block, args, kwargs)
            elif graph_task() != -1:  # gradient checkpointing
                self.memory.resume_block(self.tower, state, index, sequence(args, kwargs))
            else:  # another use of the same blocks, which stays without prompt
                state.run = None
                self.outside += index == 0
                return None
            given = sequence(args, kwargs)
        if index == 0:
            state.run = self._begin(block)
            args, kwargs = self._move(block, args, kwargs)
        run = state.run
        if run is None or run.inside or run.index != index - 1:
            raise HostError(
                f"{self.tower.path}: block {index} does not follow block {index - 1}; expected each block once and in order "
                "in a forward pass. The boosting tokens cannot follow it"
            )
        run.index, run.block, run.inside, run.host, run.attended = index, block, True, 0, None
        run.rows = self.modes[index] == ROWS
        run.trace.clear()
        if 0 < index < self.depth:
            run.tokens = getattr(block, TOKENS)[:, None]
        if run.rows:
            args, kwargs = self._append(block, args, kwargs, run.tokens)
        x = sequence(args, kwargs)
        if run.checking:
            run.trace.note("block", x, None)
        self.memory.keep(run, *((given,) if x is given else (given, x)))
        return args, kwargs

    def _begin(self, block: nn.Module) -> Pass:
        """Return a pass with the tokens of layer 0 (n, 1, d) as they enter: with positions, or after `ln_pre`."""
        tokens, state = getattr(block, TOKENS)[:, None], self._state
        if self.tower.kind == "text":
            table = self.tower.table(state.door)[self.ahead : self.ahead + self.tokens, None]
            tokens = tokens + table.to(tokens)
        elif state.entry is None:
            raise HostError(
                f"{self.tower.path}: the norm before the first block was not called; expected block_0(ln_pre(x)), where the "
                "boosting tokens enter"
            )
        else:
            tokens = state.entry.forward(tokens.to(state.given))
        start, kind = (state.door, state.entry, state.given), (block.training, state.grad)
        checking = graph_task() == -1 and self.verified[kind].bit_count() < 2  # 0, 1, 2, 4, 8, ...
        return Pass(tokens, checking, kind=kind, grad=state.grad, task=graph_task(), start=start)

    @property
    def _checks(self) -> bool:
        return self._state.run is not None and self._state.run.checking

    def _move(self, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Text: give the host's tokens after the boosting tokens the positions where they now are."""
        axis = self._axis(block)
        if self.tower.kind == "text":
            return on_sequence(
                args, kwargs, lambda x: self._moved(x) if axis == 0 else self._moved(x.transpose(0, 1)).transpose(0, 1)
            )
        if self._checks:
            self._check_entered(sequence(args, kwargs))
        return args, kwargs

    def _moved(self, x: Tensor) -> Tensor:
        """Add to texts (T, N, d) what their positions change by.

        Tokens after EOT keep theirs: only tokens that a host puts there itself are ever read, and they have none.
        """
        table, n, embedding = self.tower.table(self._state.door).to(x.device), self.tokens, self.tower.embedding
        eot = None if embedding is None else eot_rows(x, table, embedding)
        if len(x) + n > len(table):
            if self._checks or x.shape[:2] not in self._fitting:
                self._check_fits(x, table, eot)
                self._fitting.add(x.shape[:2])
            if eot is not None:  # an unseen text without room makes the loss NaN; a comparison would wait for it
                x = x.masked_fill(((eot < len(x)) & (eot + n >= len(table)))[:, None], float("nan"))
        fixed, shifted = table[: self.ahead], table[self.ahead + n :] - table[self.ahead : len(table) - n]
        shift = torch.cat([torch.zeros_like(fixed), shifted, torch.zeros_like(table[:n])])[: len(x), None].to(x.dtype)
        if eot is None:
            return x + shift
        return torch.where(torch.arange(len(x), device=x.device)[:, None, None] <= eot[:, None], x + shift, x)

    def _check_fits(self, x: Tensor, table: Tensor, eot: Tensor | None) -> None:
        """Reject texts that are too long, where the model does not keep its texts for `texts.check_lengths`."""
        if eot is not None and bool((eot < len(x)).all()):
            fits = bool((eot + self.tokens < len(table)).all())
        else:
            fits = self.checked or ends_in_padding(x, table, self.tokens)
        if not fits:
            raise HostError(
                f"{self.tower.path}: a text has no room for {self.tokens} boosting tokens; expected at most {len(table)} "
                "tokens with them. Shorten the texts, or use fewer context tokens"
            )

    def _check_entered(self, x: Tensor) -> None:
        """Vision: the first block must get what `ln_pre` returned, since the boosting tokens do."""
        entered = self._state.entered
        assert entered is not None
        # both orders are tried: a batch may have as many images as an image has tokens
        orders = [each for each in (entered, entered.transpose(0, 1)) if each.shape == x.shape]
        if not any(close(x, each.to(x.dtype)) for each in orders):
            raise HostError(
                f"{self.tower.path}: the model changes its tokens between the norm before the blocks and the first block; "
                "expected block_0(ln_pre(x)). Use a boosting prompt without vision tokens (DEPTH_VISION 0)"
            )

    def _append(self, block: nn.Module, args: tuple, kwargs: dict, tokens: Tensor) -> tuple[tuple, dict]:
        """Append the tokens to the block's sequence."""
        axis = self._axis(block)

        def longer(x: Tensor) -> Tensor:
            shape = list(x.shape)
            shape[axis] = self.tokens
            rows = (tokens if axis == 0 else tokens.transpose(0, 1)).to(x.dtype)
            return torch.cat([x, rows.expand(shape)], dim=axis)

        return on_sequence(args, kwargs, longer)

    def _split(self, block: nn.Module, output) -> tuple:
        """Split the block's output into the host's part and the tokens (n, N, d)."""
        axis = self._axis(block)
        return cut(output, first(output).shape[axis] - self.tokens, self.tokens, axis)

    def _before_attention(self, index: int, attn: nn.Module, args: tuple, kwargs: dict):
        if graph_task() == -1 and self._run is None:
            return None
        with naming(self.tower, index):
            call = AttentionCall(attn, args, kwargs, self._axis(self.tower.blocks[index]))
            self.memory.resume_part(self.tower, self._state, index, call.query, attends=True)
            run = self._run
            if run is None:
                return None
            self.memory.keep(run, call.query)
            check_gradients(self.tower, run)
            return self._extend(run, call)

    def _extend(self, run: Pass, call: AttentionCall) -> tuple[tuple, dict]:
        """Return the attention's arguments with the boosting tokens, or with masks for the tokens that it has as rows."""
        place = Place(self.tokens, self.ahead, self.tower.kind == "text", run.hidden)
        run.host = call.query.shape[call.axis] - (self.tokens if run.rows else 0)
        if run.rows:
            call.widen(run.host, True, place)
            return call.arguments()
        if run.checking:
            run.trace.note("attn", call.query, None)
        run.tokens = run.tokens.to(call.query.dtype)
        with run.through_host():
            tokens = getattr(run.block, self.tower.names.norm_1)(run.tokens)
        call.extend(tokens, self._carries(run.index), place)
        return call.arguments()

    def _after_attention(self, attn: nn.Module, args: tuple, output):
        run = self._run
        if run is None or run.rows:
            return None
        output, rows = cut(output, run.host, self.tokens, self._axis(self.tower.blocks[run.index]))
        if self._carries(run.index):
            run.attended = rows
        if run.checking:
            run.trace.note("attended", None, first(output))
        return output

    def _leave(self, index: int, block: nn.Module, args: tuple, kwargs: dict, output):
        """After a block: check it, and carry the tokens on."""
        run = self._run
        if run is None:
            return None
        with naming(self.tower, index):
            return self._finish(run, block, args, kwargs, output)

    def _finish(self, run: Pass, block: nn.Module, args: tuple, kwargs: dict, output):
        """Return the host's part of a block's output."""
        index = run.index
        run.inside = False
        if run.rows:
            output, run.tokens = self._split(block, output)
            if run.checking:
                self._check_rows(index, block, *self._without(block, args, kwargs))
        elif run.checking and (fault := self._difference(run, output)):
            output = self._switch(index, block, args, kwargs, fault)
        elif run.attended is not None:
            with run.through_host():
                tokens = run.tokens + run.attended
                run.tokens = tokens + getattr(block, self.tower.names.mlp)(
                    getattr(block, self.tower.names.norm_2)(tokens)
                )
        if index + 1 == self.layers:
            self._state.run = None
            self.passes += graph_task() == -1
            self.verified[run.kind] += graph_task() == -1
        return output

    def _difference(self, run: Pass, output) -> str:
        """Return what a block does differently from a stock block, "" if nothing."""
        block, carries = self.tower.blocks[run.index], self._carries(run.index)
        parts = {"norm_1": getattr(block, self.tower.names.norm_1)}
        if carries:
            parts |= {"norm_2": getattr(block, self.tower.names.norm_2), "mlp": getattr(block, self.tower.names.mlp)}
        axis = self._axis(block)
        fault = difference(run.trace, first(output) if carries else None, carries, axis)
        return fault or mixing(run.trace, parts, axis, {id(self): self})

    def _switch(self, index: int, block: nn.Module, args: tuple, kwargs: dict, fault: str):
        """Let the tokens be rows of a block's sequence from now on; returns the host's part of its output."""
        run = self._state.run
        assert run is not None
        self._check_rows(index, block, args, kwargs, fault)
        self.modes[index] = ROWS
        logger.info(
            "%s: block %d takes the boosting tokens as rows of its sequence, because %s", self.tower.path, index, fault
        )
        run.inside = run.rows = True
        with same_randomness():
            args, kwargs = self._append(block, args, kwargs, run.tokens)
            self.memory.keep(run, sequence(args, kwargs))
            output, run.tokens = self._split(block, block.forward(*args, **kwargs))
        run.inside = False
        return output

    def _check_rows(self, index: int, block: nn.Module, args: tuple, kwargs: dict, fault: str = "found before") -> None:
        """Run a copy of a block alone, then with tokens that the host's tokens cannot see.

        Raises:
            HostError: the host's rows differ: the block does not treat all tokens alike.
        """
        state, twin = self._state, copy.deepcopy(block, {id(self): self})
        run = state.run
        assert run is not None
        try:
            with torch.no_grad(), same_randomness():
                state.run = None
                alone = first(twin.forward(*args, **kwargs))
                state.run = Pass(run.tokens, False, index, twin, inside=True, rows=True, hidden=True)
                longer, longer_kwargs = self._append(twin, args, kwargs, run.tokens)
                host = first(self._split(twin, twin.forward(*longer, **longer_kwargs))[0])
            apart = rows_differ(host, alone)
        except Exception as error:  # of the host's own code
            apart = f"it fails with {type(error).__name__}: {error}"
        finally:
            state.run = run
        if apart:
            kind = self.tower.kind
            raise HostError(
                f"{self.tower.path}: block {index} ({type(block).__name__}) takes the boosting tokens neither as keys and "
                f"values ({fault}) nor as rows of its sequence ({apart}); expected a block that treats "
                "all tokens alike. Use a boosting prompt as deep as the tower, or without "
                f"{kind} tokens (DEPTH_{kind.upper()} 0)"
            )

    def _without(self, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Return the block's arguments without the appended tokens."""
        axis = self._axis(block)
        return on_sequence(args, kwargs, lambda x: x.narrow(axis, 0, x.shape[axis] - self.tokens))

    def _carries(self, index: int) -> bool:
        """Whether the next block needs what this block makes of the tokens."""
        return self.depth <= index + 1 < self.layers

    def _axis(self, block: nn.Module) -> int:
        return self._axes.get((type(block), type(getattr(block, self.tower.names.attn))), 0)

    def _find_axis(self, block: nn.Module, args: tuple, kwargs: dict) -> None:
        attn = getattr(block, self.tower.names.attn)
        if (type(block), type(attn)) not in self._axes:
            self._axes[type(block), type(attn)] = token_axis(block, attn, args, kwargs, {id(self): self})
