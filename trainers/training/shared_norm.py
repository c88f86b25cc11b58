"""Batch normalisation over the whole batch of several processes, on a CPU as well."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from . import parallel


class _SumOverRanks(torch.autograd.Function):
    """Sum a tensor over all ranks; the gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, gradient)


class SharedBatchNorm(nn.BatchNorm1d):
    """`BatchNorm1d` with the statistics of all ranks' shares together, as in one process.

    PyTorch's `SyncBatchNorm` computes the same on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (B, E)."""
        if not self.training or parallel.size() == 1:
            return super().forward(x)
        count = x.shape[0] * parallel.size()  # the shares are equal
        mean = _SumOverRanks.apply(x.sum(dim=0)) / count
        centred = x - mean
        variance = _SumOverRanks.apply(centred.square().sum(dim=0)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias
