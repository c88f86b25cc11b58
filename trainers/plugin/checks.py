"""Check that a block computes `x + attn(norm_1(x))`, then `x + mlp(norm_2(x))`, from the tensors of its own forward pass.

No module is called again, so no random number is drawn and no running statistic changes.
"""

import torch
from torch import Tensor

ULPS = 8  # units in the last place; stock blocks differ by exactly 0


class Trace:
    """Inputs and outputs of a block's parts in one forward pass, by the part's name."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor | None] = {}
        self.outputs: dict[str, Tensor | None] = {}

    def clear(self) -> None:
        """Forget the last block."""
        self.inputs.clear()
        self.outputs.clear()

    def note(self, name: str, given: Tensor | None, returned: Tensor | None) -> None:
        """Keep the last call of a part."""
        self.inputs[name], self.outputs[name] = given, returned


def difference(trace: Trace, output: Tensor | None, carries: bool) -> str:
    """Return what a block does differently from a stock block, "" if nothing.

    Args:
        trace: the block's tensors; of its attention only the host's rows.
        output: what the block returned; needed if it carries.
        carries: whether the block's output matters; else only what its attention gets.
    """
    given, returned = trace.inputs, trace.outputs
    if "norm_1" not in given or not _same(given.get("attn"), returned["norm_1"]):
        return "its attention does not get norm_1(x)"
    if not carries:
        return ""
    middle = _sum(given["norm_1"], returned.get("attended"))
    if not _same(given.get("norm_2"), middle):
        return "norm_2 does not get x + attn(norm_1(x))"
    if not _same(given.get("mlp"), returned.get("norm_2")):
        return "its MLP does not get norm_2(x)"
    if not _same(output, _sum(given["norm_2"], returned.get("mlp"))):
        return "it does not return x + mlp(norm_2(x))"
    return ""


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
