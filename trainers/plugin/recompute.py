"""Gradient checkpointing: parts of a tower that run again in the backward pass, with the tokens of their first run."""

import sys
from types import FrameType

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .state import Pass, State
from .structure import HostError, Tower


def graph_task() -> int:
    """Return the number of the backward pass that this thread runs, -1 if none."""
    return torch._C._current_graph_task_id()


class Memory:
    """The progress of forward passes, by the tensors that a part of a tower got.

    A part that runs again gets the same ones.

    A pass is kept for as long as its tensor lives. Its tokens are kept without their graph, which holds that tensor.
    """

    def __init__(self) -> None:
        self._passes = WeakTensorKeyDictionary()

    def __len__(self) -> int:
        return len(self._passes)

    def __reduce__(self) -> tuple:
        return Memory, ()  # copies of a model have run nothing

    def keep(self, run: Pass, *tensors: Tensor) -> None:
        """Keep the progress of a pass in its current block, for a backward pass that may need it."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        kept = (run.tokens.detach(), run.tokens.requires_grad, run.block, run.rows, run.start)
        for tensor in tensors:
            self._passes.setdefault(tensor, {})[run.index] = kept

    def find(self, index: int, tensor: Tensor) -> Pass | None:
        """Return the pass that a tensor was in, inside a block, None if it is not known."""
        kept = self._passes.get(tensor, {}).get(index)
        if kept is None:
            return None
        tokens, grad, block, rows, start = kept
        tokens = tokens.detach().requires_grad_(grad)
        return Pass(tokens, False, index, block, inside=True, rows=rows, task=graph_task(), start=start)

    def resume_block(self, tower: Tower, state: State, index: int, tensor: Tensor) -> None:
        """Before a block that runs again: restore the pass as the block before it left it.

        Raises:
            HostError: the block did not run on this tensor, nor after the block before it in this backward pass.
        """
        kept, run = self.find(index, tensor), state.run
        if kept is not None:
            kept.index, kept.inside, state.run = index - 1, False, kept
            state.door, state.entry, state.given = kept.start
        elif run is None or run.task != graph_task() or run.inside or run.index != index - 1:
            raise _unknown(tower, index)

    def resume_part(self, tower: Tower, state: State, index: int, tensor: Tensor, attends: bool) -> None:
        """Restore the pass in a block up to its attention.

        This is for a part of the block that runs again without the rest.

        Args:
            tower: the tower.
            state: this thread's state of it.
            index: the block.
            tensor: what the norm before the attention got, or the attention (`attends`).
            attends: whether the attention runs, which needs the pass.

        Raises:
            HostError: neither the attention nor the norm before it ran on this tensor.
        """
        run, task = state.run, graph_task()
        if task == -1 or state.open or (run is not None and run.own):
            return
        if run is not None and not (run.task == task and run.index == index and run.inside):
            run = None  # of another block, or of another backward pass
        if run is not None and not run.part and not (attends and run.host):  # the whole block runs again
            return
        kept = self.find(index, tensor)
        if kept is not None:
            kept.part, state.run = True, kept
        elif not attends:
            state.run = None
        elif run is None or run.host:
            raise _unknown(tower, index)


def check_gradients(tower: Tower, run: Pass) -> None:
    """Reject reentrant checkpointing of a part of the tower.

    In its forward pass the carried tokens get no gradients.

    Args:
        tower: the tower.
        run: its pass; `run.grad` is whether it began with gradients.

    Raises:
        HostError: a part of the pass runs in an autograd function, as it does in reentrant checkpointing.
    """
    if run.grad and not torch.is_grad_enabled() and _in_function():
        raise HostError(
            f"{tower.path}: block {run.index} runs in reentrant gradient checkpointing, where the boosting tokens lose their "
            "gradients; expected use_reentrant=False. Pass use_reentrant=False to torch.utils.checkpoint "
            '(Hugging Face: gradient_checkpointing_kwargs={"use_reentrant": False}), or turn gradient checkpointing off'
        )


def _in_function() -> bool:
    code = getattr(torch.autograd.Function.apply, "__code__", None)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def _unknown(tower: Tower, index: int) -> HostError:
    return HostError(
        f"{tower.path}: block {index} runs again in the backward pass (gradient checkpointing), on tensors of no forward pass "
        "with boosting tokens; expected use_reentrant=False and tensors that stay where they are. Turn gradient "
        "checkpointing off"
    )
