"""Top-k accuracy."""


def compute_accuracy(output, target, topk=(1,)):
    """Top-k accuracy in percent, for each k.

    Args:
        output: logits (batch, classes), or a tuple or list that has them first.
        target: labels (batch,).
        topk: the ks.

    Returns:
        list: a float tensor of shape (1,) for each k.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    predictions = output.topk(max(topk), dim=1).indices
    hits = predictions == target.view(-1, 1)
    return [hits[:, :k].float().sum().view(1) * (100.0 / len(target)) for k in topk]
