"""Check that whole training steps compile to a single graph without a warm-up step, equal to eager ones."""

import pytest
import torch
import versions

from scripts.benchmark import works

pytestmark = versions.compiles

CPU, SMALL = torch.device("cpu"), works.SIZES["small"]


def make(name):
    """Build a training step of CasPL_<host> or of phase 1."""
    torch.manual_seed(0)
    if name == "phase1":
        return works.boosting_works(SMALL, 7, CPU, torch.float32)["engine"]
    return works.host_works(name, SMALL, 7, CPU, torch.float32, batch=2)["engine"]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_one_graph(step, least=0.0):
    """Check that a step compiles to one graph, without a warm-up step, whose loss and gradients are the eager ones.

    Gradients may differ by 1e-5 of their norm, or by `least`.
    """
    loss = torch.compile(step.loss, fullgraph=True, backend="aot_eager")()
    loss.backward()
    found = gradients(step.model)
    assert loss.item() == pytest.approx(step().item(), rel=1e-5)
    expected = gradients(step.model)
    assert found.keys() == expected.keys() and found
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= 1e-5 * gradient.norm() + least, key


@pytest.mark.slow
@pytest.mark.parametrize("path", ["cpu", "gpu"])
@pytest.mark.parametrize("name", [*works.HOSTS, "phase1"])
def test_step_compiles_to_one_graph(name, path, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", path == "cpu")
    torch._dynamo.reset()
    check_one_graph(make(name))


def test_compiled_evaluation_sees_changed_parameters():
    """Class features of a model with trainable parameters must not become constants of the graph."""
    torch._dynamo.reset()
    model = works.host_works("CoOp", SMALL, 3, CPU, torch.float32, batch=2)["engine"].model
    image = torch.randn(2, 3, SMALL.image, SMALL.image)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        first = compiled(image)
        torch.testing.assert_close(first, model(image))
        model.prompt_learner.ctx.normal_()
        second = compiled(image)
        torch.testing.assert_close(second, model(image))
    assert (first - second).abs().max() > 1e-3
