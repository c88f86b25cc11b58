"""Whether gradients pass from a tensor to others as through a sum."""

from torch import Tensor

# Operations that hand gradients on unchanged.
_PASSING = {
    f"{name}Backward0"
    for name in (
        "Add Alias Cat Clone Contiguous Expand Index Permute ReshapeAlias Select Slice Split Squeeze Stack T ToCopy Transpose "
        "Unbind UnsafeView Unsqueeze View"
    ).split()
} | {"BackwardHookFunctionBackward"}
_FARTHEST = 64  # nodes between two parts of a block


def flows(result: Tensor | None, *sources: Tensor | None) -> bool:
    """Whether the gradient of a result reaches all of its sources that have one, unchanged but for its shape."""
    assert result is not None
    wanted = [source for source in sources if source is not None and source is not result and source.requires_grad]
    if any(tensor._backward_hooks for tensor in [result, *wanted]):
        return False
    return not wanted or (result.requires_grad and all(_reaches(result, source) for source in wanted))


def _reaches(result: Tensor, source: Tensor) -> bool:
    nodes, seen = [result.grad_fn], set[object]()
    while nodes and len(seen) < _FARTHEST:
        node = nodes.pop(0)
        if node is None or node in seen:
            continue
        if node is source.grad_fn or getattr(node, "variable", None) is source:
            return True
        seen.add(node)
        if node.name() in _PASSING or node.name().removeprefix("torch::autograd::") in _PASSING:
            nodes += [following for following, _ in node.next_functions]
    return False
