"""Top-k accuracy."""

from collections.abc import Sequence

from torch import Tensor


def compute_accuracy(
    output: Tensor | tuple[Tensor, ...] | list[Tensor], target: Tensor, topk: Sequence[int] = (1,)
) -> list[Tensor]:
    """Compute top-k accuracy in per cent for each k.

    Args:
        output: logits (B, C), or a tuple or list that starts with them.
        target: labels (B,).
        topk: the values of k.

    Returns:
        A tensor of shape (1,) for each k.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    predictions = output.topk(max(topk), dim=1).indices
    hits = predictions == target.view(-1, 1)
    return [hits[:, :k].float().sum().view(1) * (100.0 / len(target)) for k in topk]
