"""One compiled block computes all inner blocks of a tower, equal to eager ones."""

import time

import pytest
import torch
import versions
from test_compile import gradients

from scripts.benchmark import works
from trainers.engine import blocks_gpu

pytestmark = versions.compiles

CPU = torch.device("cpu")


@pytest.fixture
def gpu_path(monkeypatch):
    """The GPU's implementation of the towers; inner blocks run eagerly after the test."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    torch._dynamo.reset()
    yield
    blocks_gpu.compile_inner_blocks(None)


def both(step):
    """Return loss and gradients of a step, eager and compiled, and the seconds that the first compiled step takes."""
    results = []
    for backend in (None, "inductor"):
        blocks_gpu.compile_inner_blocks(backend)
        start = time.perf_counter()
        loss = step()
        seconds = time.perf_counter() - start
        results.append((loss, gradients(step.model)))
    return *results, seconds


@pytest.mark.slow
@pytest.mark.parametrize("name", [*works.HOSTS, "phase1"])
def test_inductor_by_regions_equals_eager_within_a_minute(gpu_path, name):
    torch.manual_seed(0)
    size = works.SIZES["narrow_b16"]
    if name == "phase1":
        step = works.boosting_works(size, 7, CPU, torch.float32)["engine"]
    else:
        step = works.host_works(name, size, 7, CPU, torch.float32)["engine"]
    (loss, eager), (compiled_loss, compiled), seconds = both(step)
    assert compiled_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for key, gradient in eager.items():
        assert (compiled[key] - gradient).norm() <= 1e-5 * gradient.norm(), key
    assert seconds <= 60


def test_inner_blocks_share_one_graph_per_tower(gpu_path):
    torch.manual_seed(0)
    seen = []

    def backend(graph, inputs):
        seen.append(len(inputs))
        return graph.forward

    step = works.host_works("MaPLe", works.SIZES["narrow_b16"], 7, CPU, torch.float32)["engine"]
    blocks_gpu._compiled = torch.compile(blocks_gpu.inner_block, dynamic=False, backend=backend)
    expected = step()
    assert len(seen) == 2  # of the text and the vision tower
    step()
    assert len(seen) == 2
    blocks_gpu.compile_inner_blocks(None)
    assert step().item() == pytest.approx(expected.item(), rel=1e-5)
