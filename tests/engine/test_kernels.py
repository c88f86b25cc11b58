"""Compare the frozen layers' kernels with the stock modules, forward and gradient."""

import pytest
import torch
from clip.model import ResidualAttentionBlock
from random_weights import randn

from trainers.engine import kernels


@pytest.fixture(params=[True, False], ids=["onednn", "blas"])
def onednn(request):
    """Enable or disable oneDNN; skip if PyTorch was built without it."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch was built without oneDNN")
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = request.param
    yield request.param
    torch.backends.mkldnn.enabled = before


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return ResidualAttentionBlock(32, 2).requires_grad_(False).mlp


@pytest.fixture
def calls(monkeypatch):
    """Record the activation of every oneDNN call."""
    made, op = [], kernels._onednn

    def count(x, weight, bias, activation="none"):
        made.append(activation)
        return op(x, weight, bias, activation)

    monkeypatch.setattr(kernels, "_onednn", count)
    return made


def compare(fast, stock, x, *others):
    """Assert equal values and equal gradients."""
    torch.testing.assert_close(fast, stock, atol=1e-5, rtol=1e-5)
    grads = [torch.autograd.grad((y * randn(1, "w", y.shape)).sum(), [x, *others]) for y in (fast, stock)]
    for got, want in zip(*grads, strict=True):
        assert want.norm() > 0
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 5)], ids=str)
def test_input_gradient_matches_stock(mlp, onednn, calls, shape):
    x = randn(0, "x", (*shape, 32)).requires_grad_()
    layer = mlp.c_fc
    compare(kernels.linear(x, layer.weight, layer.bias), layer(x), x)
    compare(kernels.mlp(mlp, x), mlp(x), x)
    assert calls == (["none"] * 6 if onednn else [])


@pytest.mark.parametrize("how", ["frozen input", "no_grad"])
def test_no_graph_without_learned_input(mlp, onednn, calls, how):
    x = randn(0, "x", (2, 5, 32)).requires_grad_(how == "no_grad")
    with torch.set_grad_enabled(how != "no_grad"):
        out = kernels.mlp(mlp, x)
        assert not out.requires_grad
        torch.testing.assert_close(out, mlp(x), atol=1e-5, rtol=1e-5)
    assert calls == (["swish", "none"] if onednn else [])


@pytest.mark.parametrize("trained", ["c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias"])
def test_trained_layer_gradient_matches_stock(mlp, onednn, calls, trained):
    x = randn(0, "x", (2, 5, 32)).requires_grad_()
    parameter = mlp.get_parameter(trained).requires_grad_()
    compare(kernels.mlp(mlp, x), mlp(x), x, parameter)
    layer = mlp.get_submodule(trained.split(".")[0])
    y = x if layer is mlp.c_fc else randn(0, "y", (2, 5, 128)).requires_grad_()
    compare(kernels.linear(y, layer.weight, layer.bias), layer(y), y, parameter)
    assert calls == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_use_pytorch_kernels(mlp, calls, dtype):
    x = randn(0, "x", (2, 5, 32)).to(dtype)
    out = kernels.mlp(mlp.to(dtype), x)
    assert out.dtype == dtype and calls == []
    torch.testing.assert_close(out, mlp(x), atol=2e-2 if dtype == torch.bfloat16 else 1e-9, rtol=1e-2)


def test_autocast_uses_pytorch_kernels(mlp, calls):
    x = randn(0, "x", (2, 5, 32))
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels.mlp(mlp, x).dtype == kernels.linear(x, mlp.c_fc.weight, mlp.c_fc.bias).dtype == torch.bfloat16
    assert calls == []


def test_second_derivative_raises(mlp):
    x = randn(0, "x", (2, 5, 32)).requires_grad_()
    (grad,) = torch.autograd.grad(kernels.mlp(mlp, x).square().sum(), x, create_graph=True)
    if not kernels._by_onednn(x, mlp.c_fc.weight):
        pytest.skip("PyTorch's own kernels have a second derivative")
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
