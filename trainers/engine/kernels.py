"""Linear layers and MLPs of a frozen CLIP, computed by the fastest available kernel.

On a CPU in float32, oneDNN's kernel is 10 to 40 % faster than the BLAS kernel that `F.linear` calls, most for few rows,
and it fuses the activation. PyTorch ships it for its compiler. It is not used if PyTorch was built without oneDNN or
while `torch.backends.mkldnn.enabled` is False.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .paths import is_exporting, minimizes_launches

StockModule: TypeAlias = Any  # a module of `clip`; `nn.Module` does not declare its attributes
QUICK = 1.702  # CLIP's QuickGELU: x * sigmoid(1.702 x) = silu(1.702 x) / 1.702
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute `F.linear` of x (..., K) with weight (N, K) and bias (N,).

    Returns (..., N).
    """
    if not _by_onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    if _is_learning(x):
        return _Linear.apply(x, weight, bias)
    return _onednn(x, weight, bias)  # (..., N)


def activation_of(module: StockModule) -> str:
    """Return the activation of a block's MLP.

    It is "quick" for QuickGELU, else GELU's approximation, "none" or "tanh".

    Raises:
        ValueError: the MLP has another activation.
    """
    layer = module.gelu
    if isinstance(layer, nn.GELU):
        return layer.approximate
    if type(layer).__name__ == "QuickGELU":
        return "quick"
    raise ValueError(f"MLP activation: {type(layer).__name__}; expected QuickGELU or GELU. Use another backbone")


def mlp(module: StockModule, x: Tensor) -> Tensor:
    """Compute a block's MLP of x (..., T, d); returns (..., T, d).

    QuickGELU's two factors are folded into the linear layers. The stock module makes three passes over the hidden units
    and saves two tensors for the backward pass; this makes one pass and saves one tensor, or none without gradients.

    Raises:
        ValueError: the activation is neither QuickGELU nor GELU.
    """
    first, second, kind = module.c_fc, module.c_proj, activation_of(module)
    if not _by_onednn(x, *module.parameters()):
        return mlp_by_blas(x, first.weight, first.bias, second.weight, second.bias, kind)
    if _is_learning(x):
        return _MLP.apply(x, first.weight, first.bias, second.weight, second.bias, kind)
    if kind == "quick":
        hidden = _onednn(x * QUICK, first.weight, first.bias * QUICK, "swish")  # (..., T, 4 d)
        return _onednn(hidden, second.weight, second.bias * QUICK).mul_(1 / QUICK)
    return _onednn(_activate(_onednn(x, first.weight, first.bias), kind), second.weight, second.bias)


def mlp_by_blas(x: Tensor, into: Tensor, into_bias: Tensor, out: Tensor, out_bias: Tensor, kind: str) -> Tensor:
    """Compute the MLP of x (..., T, d) by PyTorch's own kernels; returns (..., T, d).

    Args:
        x: the tokens.
        into, into_bias: the first layer.
        out, out_bias: the second layer.
        kind: the activation (see `activation_of`).
    """
    trained = any(weight.requires_grad for weight in (into, into_bias, out, out_bias))
    if _is_learning(x) and not trained and not _autocasts(x.device):
        return _FrozenMLP.apply(x, into, into_bias, out, out_bias, kind)
    hidden = _blas(x.flatten(0, -2), into, into_bias, _factor(kind), _factor(kind))  # (rows, 4 d)
    return _blas(_activate(hidden, kind), out, out_bias, 1, 1 / _factor(kind)).view(x.shape)


def _factor(kind: str) -> float:
    """Return f of an activation a(f x) / f: a is SiLU for QuickGELU and GELU itself for GELU."""
    return QUICK if kind == "quick" else 1


def _activate(x: Tensor, kind: str) -> Tensor:
    return F.silu(x) if kind == "quick" else F.gelu(x, approximate=kind)


def _activate_backward(grad: Tensor, x: Tensor, kind: str) -> Tensor:
    if kind == "quick":
        return torch.ops.aten.silu_backward(grad, x)
    return torch.ops.aten.gelu_backward(grad, x, approximate=kind)


def _blas(x: Tensor, weight: Tensor, bias: Tensor, beta: float, alpha: float) -> Tensor:
    return torch.addmm(bias, x, weight.t(), beta=beta, alpha=alpha)


def _is_learning(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled() and not is_exporting()


def _by_onednn(x: Tensor, *weights: Tensor) -> bool:
    """Check whether oneDNN's kernel applies: float32 on a CPU, and no gradients of the weights."""
    return (
        _HAS_ONEDNN
        and not is_exporting()
        and not minimizes_launches(x.device)
        and not _autocasts(x.device)
        and all(tensor.dtype == torch.float32 for tensor in (x, *weights))
        and not any(weight.requires_grad for weight in weights)
    )


def _autocasts(device: torch.device) -> bool:
    if device.type == "meta":
        return False
    enabled: Callable[..., bool] = torch.is_autocast_enabled
    try:
        return enabled(device.type)
    except TypeError:  # PyTorch 2.3
        return torch.is_autocast_cpu_enabled() if device.type == "cpu" else enabled()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")


class _Linear(torch.autograd.Function):
    """A frozen linear layer; its backward pass computes the gradient of the input only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn(grad.contiguous(), weight.t(), None), None, None


class _MLP(torch.autograd.Function):
    """A frozen MLP by oneDNN's kernels; QuickGELU's two factors cancel in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, into: Tensor, into_bias: Tensor, out: Tensor, out_bias: Tensor, kind: str
    ) -> Tensor:
        ctx.kind = kind
        if kind != "quick":
            hidden = _onednn(x, into, into_bias)  # (..., 4 d)
            ctx.save_for_backward(hidden, into, out)
            return _onednn(_activate(hidden, kind), out, out_bias)
        hidden = _onednn(x * QUICK, into, into_bias * QUICK)  # (..., 4 d)
        ctx.save_for_backward(hidden, into, out)
        return _onednn(_activate(hidden, kind), out, out_bias * QUICK).mul_(1 / QUICK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, into, out = ctx.saved_tensors
        grad = _activate_backward(_onednn(grad.contiguous(), out.t(), None), hidden, ctx.kind)  # (..., 4 d)
        return _onednn(grad, into.t(), None), None, None, None, None, None  # (..., d)


class _FrozenMLP(torch.autograd.Function):
    """A frozen MLP by PyTorch's own kernels; QuickGELU's two factors cancel in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, into: Tensor, into_bias: Tensor, out: Tensor, out_bias: Tensor, kind: str
    ) -> Tensor:
        hidden = _blas(x.flatten(0, -2), into, into_bias, _factor(kind), _factor(kind))  # (rows, 4 d)
        ctx.save_for_backward(hidden, into, out)
        ctx.kind = kind
        return _blas(_activate(hidden, kind), out, out_bias, 1, 1 / _factor(kind)).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, into, out = ctx.saved_tensors
        inner = _activate_backward(grad.reshape(-1, grad.shape[-1]) @ out, hidden, ctx.kind)  # (rows, 4 d)
        return (inner @ into).view(grad.shape), None, None, None, None, None
