"""The matrix products of CLIP's frozen layers, by the fastest kernel at hand.

On a CPU in float32 that is oneDNN's, which PyTorch brings and its compiler uses, but `F.linear` does not: there it is 10
to 40 % faster than the BLAS's, most so where rows are few, and it takes the activation with it. It is left alone where
PyTorch was built without oneDNN, and while `torch.backends.mkldnn.enabled` is False.
"""

from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

StockModule: TypeAlias = Any  # a module of `clip`, whose parts the type `nn.Module` does not tell
QUICK = 1.702  # CLIP's QuickGELU is x * sigmoid(1.702 x), which is silu(1.702 x) / 1.702
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` of x (..., K) with a frozen weight (N, K) and bias (N,)."""
    if not _by_onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    if _is_learning(x):
        return _Linear.apply(x, weight, bias)
    return _onednn(x, weight, bias)


def mlp(module: StockModule, x: Tensor) -> Tensor:
    """A block's MLP (..., T, d), with QuickGELU's two factors moved away from its widest tensor.

    The stock module takes three passes over the hidden units and keeps two of them for the backward pass; this takes
    one and keeps one, or takes none where nothing is learned.
    """
    first, second = module.c_fc, module.c_proj
    if not _by_onednn(x, *module.parameters()):
        hidden = torch.addmm(first.bias, x.flatten(0, -2), first.weight.t(), beta=QUICK, alpha=QUICK)
        return torch.addmm(second.bias, F.silu(hidden), second.weight.t(), alpha=1 / QUICK).view(x.shape)
    if _is_learning(x):
        return _MLP.apply(x, first.weight, first.bias, second.weight, second.bias)
    hidden = _onednn(x * QUICK, first.weight, first.bias * QUICK, "swish")
    return _onednn(hidden, second.weight, second.bias * QUICK).mul_(1 / QUICK)


def _is_learning(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _by_onednn(x: Tensor, *weights: Tensor) -> bool:
    """Whether the kernel takes these: it computes in float32, and has no gradients of the weights."""
    return (
        _HAS_ONEDNN
        and bool(torch.backends.mkldnn.enabled)
        and x.device.type == "cpu"
        and not _autocasts()
        and all(tensor.dtype == torch.float32 for tensor in (x, *weights))
        and not any(weight.requires_grad for weight in weights)
    )


def _autocasts() -> bool:
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # PyTorch 2.3
        return torch.is_autocast_cpu_enabled()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")


class _Linear(torch.autograd.Function):
    """A frozen linear layer: its backward pass is the gradient of the input alone."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn(grad.contiguous(), weight.t(), None), None, None


class _MLP(torch.autograd.Function):
    """A frozen MLP: in its backward pass QuickGELU's two factors cancel."""

    @staticmethod
    def forward(ctx, x: Tensor, into: Tensor, into_bias: Tensor, out: Tensor, out_bias: Tensor) -> Tensor:
        hidden = _onednn(x * QUICK, into, into_bias * QUICK)
        ctx.save_for_backward(hidden, into, out)
        return _onednn(F.silu(hidden), out, out_bias * QUICK).mul_(1 / QUICK)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        hidden, into, out = ctx.saved_tensors
        grad = torch.ops.aten.silu_backward(_onednn(grad.contiguous(), out.t(), None), hidden)
        return _onednn(grad, into.t(), None), None, None, None, None
