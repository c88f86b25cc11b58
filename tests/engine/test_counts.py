"""Counts on the device `meta` against the same work computed on a CPU."""

import contextlib
import runpy
import types

import pytest
import torch
import versions
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from scripts.benchmark import measure, works
from trainers.engine import PromptedCLIP, counts, text, vision
from trainers.engine.counts import operations, peak_meta_bytes

pytestmark = versions.counts_operations

CPU = torch.device("cpu")


def on_meta(host, classes=7):
    """Return a small cascaded host on the device `meta`."""
    torch.manual_seed(0)
    model, _ = works._cascaded(host, works.SIZES["small"], classes, CPU, torch.float32)
    return model.to("meta")


def step(model: PromptedCLIP, device, images=3):
    """Return a training step."""
    image = torch.zeros(images, 3, 32, 32, device=device)
    label = torch.zeros(images, dtype=torch.long, device=device)
    return works.Step(model, lambda: sum(model.loss_terms(image, label)[0].values()))


@pytest.mark.parametrize("host", ["CoOp", "CoCoOp", "MaPLe"])
def test_meta_operations_equal_those_of_gpu_implementation(host):
    counted = operations(step(on_meta(host), "meta"))
    torch.manual_seed(0)
    model, _ = works._cascaded(host, works.SIZES["small"], 7, CPU, torch.float32)
    with torch.backends.mkldnn.flags(enabled=False):
        assert operations(step(model, CPU)) == pytest.approx(counted, rel=0.02)


def test_meta_memory_is_near_that_of_computing():
    counted = peak_meta_bytes(step(on_meta("MaPLe"), "meta"))
    torch.manual_seed(0)
    model, _ = works._cascaded("MaPLe", works.SIZES["small"], 7, CPU, torch.float32)
    with torch.backends.mkldnn.flags(enabled=False):
        step(model, CPU)()
        computed = measure.peak_bytes(step(model, CPU), CPU)
    assert 0.5 < counted / computed < 2


def test_peak_counts_live_tensors_only():
    def one_after_the_other():
        for _ in range(5):
            torch.zeros(1000, device="meta").add(1)  # two tensors of 4,000 bytes at a time

    assert peak_meta_bytes(one_after_the_other) == 8000
    kept = []
    assert peak_meta_bytes(lambda: [kept.append(torch.zeros(1000, device="meta")) for _ in range(5)]) == 20000


def test_views_and_in_place_operations_take_no_memory():
    x = torch.zeros(10, 100, device="meta")
    assert peak_meta_bytes(lambda: x.t()[3:].add_(1)) == 0


def test_meta_attention_keeps_no_weights():
    q = torch.zeros(1, 1, 1000, 8, device="meta")
    mask = torch.zeros(1, 1, 1000, 1000, device="meta")
    assert peak_meta_bytes(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask)) < 1000 * 1000
    assert operations(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask)) == 2 * 2 * 1000 * 1000 * 8


def test_counter_needs_no_onednn(monkeypatch):
    """Builds for other processors lack its kernels."""
    monkeypatch.setattr(torch.ops, "mkldnn", types.SimpleNamespace())
    found = runpy.run_module("trainers.engine.counts")
    x = torch.zeros(3, 4)
    assert found["operations"](lambda: x @ x.t()) == 2 * 3 * 3 * 4


def vit_b16(host, classes):
    """Return a cascaded host at the paper's sizes on the device `meta`."""
    return works._cascaded(host, works.SIZES["vit_b16"], classes, CPU, torch.float32)[0].to("meta")


@pytest.fixture
def on_path(monkeypatch):
    """A function that selects the towers' implementation, "cpu" or "gpu", on any device."""

    def select(path):
        for module in (text, vision):
            monkeypatch.setattr(module, "minimizes_launches", lambda device: path == "gpu")

    return select


# CoCoOp computes texts for one image, so repeated prefixes and masked attention weigh most there.
MORE = [("CoCoOp", 50, 0.13), ("CoOp", 50, 0.1)]
SLOW = [("MaPLe", 50, 0.1), ("PromptSRC", 50, 0.1), ("CoOp", 1000, 0.1)]


@pytest.mark.parametrize(
    ("host", "classes", "more"), [*MORE, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_gpu_implementation_needs_few_more_operations_and_no_more_memory(on_path, host, classes, more):
    model, found = vit_b16(host, classes), {}
    image = torch.zeros(works.BATCH[host], 3, 224, 224, device="meta")
    label = torch.zeros(len(image), dtype=torch.long, device="meta")
    work = works.Step(model, lambda: sum(model.loss_terms(image, label)[0].values()))
    for path in ("cpu", "gpu"):
        on_path(path)
        work()  # builds the rows and plans
        found[path] = operations(work), peak_meta_bytes(work)
    assert found["gpu"][0] <= (1 + more) * found["cpu"][0]
    assert found["gpu"][1] <= 1.1 * found["cpu"][1]


@pytest.mark.parametrize("path", ["cpu", "gpu"])
@pytest.mark.parametrize("host", ["CoOp", "MaPLe"])
def test_evaluation_of_397_classes_costs_little_more_than_image_tower(on_path, host, path):
    on_path(path)
    model = vit_b16(host, 397).requires_grad_(False)
    image = torch.zeros(8, 3, 224, 224, device="meta")
    with torch.no_grad():
        first, again = (operations(lambda: model(image)) for _ in range(2))  # class features are computed once
        tower = operations(lambda: model.encode(image))
    assert tower < again < first and first + 124 * again <= 1.02 * 125 * tower  # of 1,000 images


def evaluation(model):
    """Return the classification of images, class features included."""
    image = torch.zeros(3, 3, 32, 32, device="meta")

    def work():
        model._cached = None
        with torch.no_grad():
            model(image)

    return work


@pytest.mark.parametrize("made", [evaluation, lambda model: step(model, "meta")], ids=["evaluation", "step"])
@pytest.mark.parametrize("host", ["CoOp", "CoCoOp", "MaPLe"])
def test_operations_equal_those_of_pytorchs_counter(on_path, host, made):
    on_path("gpu")
    work = made(on_meta(host))
    with FlopCounterMode(display=False) as counter, counts._FusedAttention():
        work()
    first, again = operations(work), operations(work)
    assert first == again == counter.get_total_flops() > 0


@pytest.mark.parametrize("made", [evaluation, lambda model: step(model, "meta")], ids=["evaluation", "step"])
@pytest.mark.parametrize("host", ["CoOp", "MaPLe"])
def test_repeated_blocks_and_remembered_shapes_change_no_count(on_path, monkeypatch, host, made):
    on_path("gpu")
    work = made(on_meta(host))
    expected = operations(work), peak_meta_bytes(work)
    monkeypatch.setattr(counts, "_repeated_blocks", lambda counting: contextlib.nullcontext())
    monkeypatch.setattr(counts, "_is_pure", lambda function: False)
    assert (operations(work), peak_meta_bytes(work)) == expected


def test_results_that_share_memory_are_not_remembered():
    x = torch.zeros(4, 6, device="meta")
    for _ in range(2):
        assert peak_meta_bytes(lambda: torch.ops.aten._unsafe_view(x, [6, 4])) == 0
