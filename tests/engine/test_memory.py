"""Compare the memory estimate with the tensors saved for backward, and check the choice of class chunks."""

import itertools
import logging
import math
import random

import pytest
import torch
from random_weights import Spec, clip_state_dict
from torch import nn

from trainers.backbones import build_clip, tokenizer
from trainers.engine import Learner, PromptedCLIP, host_texts, layout_of
from trainers.engine import memory as engine_memory
from trainers.engine.text import encode_text
from trainers.engine.tokens import EOT, SOS
from trainers.hosts import cocoop

SMALL = Spec(vision_width=64, text_width=64, embed_dim=32, vision_layers=1, text_layers=4, patch=8, grid=2)
FIRST, SECOND = ("red", "green", "wild"), ("big", "small", "old", "new")
NAMES = [f"{first} {second} cat" for first in FIRST for second in SECOND]
MORE = [" ".join(words) for words in itertools.product(FIRST, SECOND, FIRST, SECOND)]


class Context(Learner):
    """Four text tokens in every block."""

    def __init__(self):
        super().__init__()
        self.ctx = nn.ParameterList([nn.Parameter(torch.randn(4, 64) * 0.02) for _ in range(4)])

    def text_stack(self):
        return list(self.ctx)


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def path(request, monkeypatch):
    """Run each test with both implementations of the towers."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", request.param == "cpu")


@pytest.fixture(scope="module")
def clip_model():
    tokens = {SOS, EOT} | {token for name in NAMES for token in tokenizer().encode(f"{name}.")}
    return build_clip(clip_state_dict(SMALL, 3, tokens))


def texts(names=NAMES):
    return host_texts(tokenizer().encode, names, 4)


def kept_bytes(work, known):
    """Return the bytes that `work()` saves for the backward pass, without the storages of `known` tensors."""
    kept, ours = {}, {tensor.untyped_storage().data_ptr() for tensor in known}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work()
    assert result.requires_grad
    return sum(size for place, size in kept.items() if place not in ours)


@pytest.mark.parametrize("classes", [36, 84])
def test_estimate_matches_saved_bytes(clip_model, classes):
    """Check the increase for additional classes: at most 25 % above and 5 % below the saved bytes."""
    learner, names = Context(), random.Random(0).sample(MORE, classes)
    few, many = layout_of(texts(names[:12])), layout_of(texts(names))
    known = [*clip_model.parameters(), *learner.parameters()]
    kept = [kept_bytes(lambda x=x: encode_text(clip_model, x, [learner.text_stack()]), known) for x in (few, many)]
    assert 0.95 <= (estimate(clip_model, many) - estimate(clip_model, few)) / (kept[1] - kept[0]) <= 1.25


def estimate(clip_model, layout, images=1, training=True):
    """Return the estimate of `classes_at_a_time` for all classes."""
    rows = layout.rows()
    keys = len(layout.prefix) + layout.longest
    return engine_memory.suffix_bytes(clip_model, len(rows.words), len(rows.of), keys, images, training)


@pytest.mark.parametrize("share", [0.9, 0.3, 0.01])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_chunks_fit_free_memory(clip_model, monkeypatch, caplog, share, images, training):
    layout = layout_of(texts())
    total = estimate(clip_model, layout, images, training)
    monkeypatch.setattr(engine_memory, "free_bytes", lambda device: share * total)
    with caplog.at_level(logging.INFO):
        found = engine_memory.classes_at_a_time(clip_model, layout, images, training)
    keys = len(layout.prefix) + layout.longest
    one = engine_memory.suffix_bytes(clip_model, layout.longest, layout.longest, keys, images, training)
    room, count = engine_memory.SHARE * share * total, math.ceil(len(NAMES) / found)
    assert found == 1 or found * one <= room
    assert count == 2 or math.ceil(len(NAMES) / (count - 1)) * one > room  # as few chunks as possible
    assert found == math.ceil(len(NAMES) / count)  # of nearly equal size
    assert f"computing {found} classes at a time" in caplog.text
    monkeypatch.setattr(engine_memory, "free_bytes", lambda device: 2 * total)
    assert engine_memory.classes_at_a_time(clip_model, layout, images, training) is None


@pytest.mark.parametrize("build", ["context", "cocoop"])
def test_chunked_model_saves_memory_and_matches(clip_model, monkeypatch, build):
    """Compare loss and gradients with memory for two classes and with memory for all."""
    torch.manual_seed(0)
    model = PromptedCLIP(clip_model, Context(), texts())
    if build == "cocoop":
        model = cocoop.build(clip_model, NAMES, n_ctx=4)
    image, label = torch.randn(2, 3, 16, 16), torch.tensor([1, 5])
    learned = [p for p in model.prompt_learner.parameters()]
    outcomes = []
    for free in (10**12, 2 / engine_memory.SHARE * 2.5 * 10**5):
        monkeypatch.setattr(engine_memory, "free_bytes", lambda device, free=free: free)
        model.cascade(None)

        def loss():
            return model.loss_terms(image, label)[0]["ce"]

        kept = kept_bytes(loss, model.parameters())
        outcomes.append((kept, loss().item(), torch.autograd.grad(loss(), learned)))
    (much, first, want), (little, second, got) = outcomes
    assert little < 0.7 * much
    assert second == pytest.approx(first, rel=1e-5)
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_free_memory_is_plausible():
    free = engine_memory.free_bytes(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
