"""Check that a block computes `x + attn(norm_1(x))`, then `x + mlp(norm_2(x))`, from the tensors of its own forward pass.

Values are compared, and the graph of gradients: a block that cuts, scales or reverses gradients returns the same values.
Only copies of modules are called again, so no random number is drawn and no running statistic changes.
"""

import contextlib
import copy

import torch
from torch import Tensor, nn

from .gradients import flows
from .randomness import same_randomness

ULPS = 8  # units in the last place; stock blocks differ by exactly 0


class Trace:
    """Inputs and outputs of a block's parts in one forward pass, by the part's name; `calls` of its attention."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor | None] = {}
        self.outputs: dict[str, Tensor | None] = {}
        self.calls = 0

    def clear(self) -> None:
        """Forget the last block."""
        self.inputs.clear()
        self.outputs.clear()
        self.calls = 0

    def note(self, name: str, given: Tensor | None, returned: Tensor | None) -> None:
        """Keep the last call of a part."""
        self.inputs[name], self.outputs[name] = given, returned
        self.calls += name == "attn"


def difference(trace: Trace, output: Tensor | None, carries: bool, axis: int) -> str:
    """Return what a block does differently from a stock block, "" if nothing.

    Args:
        trace: the block's tensors; of its attention only the host's rows.
        output: what the block returned; needed if it carries.
        carries: whether the block's output matters; else only what its attention gets.
        axis: the dimension of the tokens.
    """
    given, returned = trace.inputs, trace.outputs
    if "norm_1" not in given or not _same(given.get("attn"), returned["norm_1"]):
        return "its attention does not get norm_1(x)"
    if trace.calls > 1:
        return "its attention runs more than once"
    if not _kept(given.get("block"), given["norm_1"], axis):
        return "it changes x before norm_1"
    if not (flows(given["norm_1"], given.get("block")) and flows(given["attn"], returned["norm_1"])):
        return "it changes gradients"
    if not carries:
        return ""
    middle = _sum(given["norm_1"], returned.get("attended"))
    if not _same(given.get("norm_2"), middle):
        return "norm_2 does not get x + attn(norm_1(x))"
    if not _same(given.get("mlp"), returned.get("norm_2")):
        return "its MLP does not get norm_2(x)"
    if not _same(output, _sum(given["norm_2"], returned.get("mlp"))):
        return "it does not return x + mlp(norm_2(x))"
    if not (
        flows(given["norm_2"], given["norm_1"], returned["attended"])
        and flows(given["mlp"], returned["norm_2"])
        and flows(output, given["norm_2"], returned["mlp"])
        and _learns(given["norm_1"], returned["attended"])
        and _learns(given["norm_2"], returned["mlp"])
    ):
        return "it changes gradients"
    return ""


def mixing(trace: Trace, parts: dict[str, nn.Module], axis: int, memo: dict) -> str:
    """Return which norm or MLP of a block lets tokens depend on other tokens, "" if none does.

    Args:
        trace: the block's tensors.
        parts: the modules, by their names in `trace`.
        axis: the dimension of the tokens.
        memo: for `copy.deepcopy`: what is not copied.
    """
    for name, part in parts.items():
        given = trace.inputs[name]
        if given is not None and _mixes(part, given, axis, memo):
            return f"its {name} mixes tokens"
    return ""


def _mixes(part: nn.Module, x: Tensor, axis: int, memo: dict) -> bool:
    half = x.shape[axis] // 2
    try:
        twin = copy.deepcopy(part, dict(memo))
    except RuntimeError:  # its tensors belong to a graph (torch.func, caches)
        return False
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    with torch.no_grad(), same_randomness(), contextlib.suppress(RuntimeError):  # of a part for one length
        return not close(twin.forward(x.narrow(axis, 0, half)), twin.forward(x).narrow(axis, 0, half), 512)
    return True


def _kept(before: Tensor | None, x: Tensor | None, axis: int) -> bool:
    """Whether a block's first norm gets the block's tokens, of which a host may insert or replace some, not the first."""
    if before is None or x is None or before is x:
        return True
    before, x = before.transpose(0, axis), x.transpose(0, axis)
    if x.shape[1:] != before.shape[1:] or not close(x[:1], before[:1]):
        return False
    return len(x) == 1 or close(x[1:2], before[1:2]) or close(x[-1:], before[-1:])


def _learns(given: Tensor | None, returned: Tensor | None) -> bool:
    """Whether a part that got a tensor with a gradient returned one."""
    assert given is not None and returned is not None
    return returned.requires_grad or not given.requires_grad


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None or a.shape != b.shape else a.detach() + b.detach()


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and (a is b or (a.shape == b.shape and close(a, b)))


def close(a: Tensor, b: Tensor, ulps: int = ULPS) -> bool:
    """Whether two tensors differ by a few units in the last place of the largest value; NaN equals NaN."""
    with torch.no_grad():
        a, b = a.detach(), b.detach()
        if torch.equal(a, b):
            return True
        coarser = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
        limit = ulps * coarser * b.abs().nan_to_num().max()
        return bool(((a - b).abs() <= limit).logical_or(a.isnan() & b.isnan()).all())


def rows_differ(host: Tensor, alone: Tensor) -> str:
    """Return how the host's rows differ from those of the block alone, "" if they do not."""
    if host.shape != alone.shape:
        return "its other rows change in number"
    return "" if close(host, alone, 512) else f"its other rows change by {float((host - alone).abs().max()):.2g}"
