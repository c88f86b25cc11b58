"""Injection into models of other toolboxes: one model for each kind of block, against our own hosts' cascade."""

import copy
import itertools
import threading
import types

import pytest
import torch
from forked import DEPTHS, IMAGES, LABELS, LOGITS, boosting, logits, make, shape_of, stock
from one_device import META, checked, move
from random_weights import randn
from torch import nn
from torch.nn import functional as F

from trainers.backbones import tokenizer
from trainers.engine import ORDERS
from trainers.engine.precision import cast_clip
from trainers.engine.tokens import EOT, SOS
from trainers.plugin import checks, passes
from trainers.plugin.inject import inject
from trainers.plugin.structure import HostError
from trainers.plugin.texts import head_length


@pytest.fixture(scope="module")
def clip_model():
    return stock()


@pytest.fixture(params=["CoOp", "CoCoOp", "MaPLe", "PromptSRC"])
def host(request):
    return request.param


@pytest.fixture
def models(host, clip_model):
    return make(host, clip_model)


@pytest.mark.parametrize("order", ORDERS)
def test_injection_equals_own_cascade_at_every_depth(models, order):
    native, fork = models
    plain, before = logits(fork), shape_of(fork)
    torch.testing.assert_close(plain, logits(native), atol=LOGITS, rtol=0)
    for text, vision in DEPTHS:
        group = boosting((text, 5), (vision, 3))
        native.cascade(group, order)
        injection = inject(fork, group, order)
        cascaded = logits(fork)
        torch.testing.assert_close(
            cascaded, logits(native), atol=LOGITS, rtol=0, msg=lambda m, d=(text, vision): f"{d}: {m}"
        )
        assert (cascaded - plain).abs().max() > 0.1
        injection.remove()
        assert torch.equal(logits(fork), plain)
        assert shape_of(fork) == before


@pytest.mark.parametrize(
    "options", [{"class_token_position": "middle"}, {"class_token_position": "front"}, {"csc": True}], ids=str
)
@pytest.mark.parametrize("order", ORDERS)
def test_injection_equals_own_cascade_for_coop_contexts(clip_model, order, options):
    native, fork = make("CoOp", clip_model, **options)
    native.cascade(boosting(), order)
    inject(fork, boosting(), order)
    torch.testing.assert_close(logits(fork), logits(native), atol=LOGITS, rtol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("depths", [(1, 2), (3, 3)])
def test_gradients_equal_own_cascade(models, depths, order):
    native, fork = models
    group = boosting((depths[0], 5), (depths[1], 3))
    native.cascade(group, order)
    inject(fork, group, order)
    leaves = list(native.prompt_learner.parameters())
    expected, found = (
        torch.autograd.grad(F.cross_entropy(model(IMAGES), LABELS), leaves, allow_unused=True)
        for model in (native, fork)
    )
    for a, b in zip(found, expected, strict=True):
        assert b.norm() > 0
        assert (a - b).norm() <= 1e-3 * b.norm()


def test_only_the_host_learns(models):
    """Three training steps leave the boosting prompt unchanged, bit for bit."""
    _, fork = models
    group = boosting()
    keys, learned = list(fork.state_dict()), [p for p in fork.parameters() if p.requires_grad]
    inject(fork, group)
    assert list(fork.state_dict()) == keys
    assert [id(p) for p in fork.parameters() if p.requires_grad] == [id(p) for p in learned]
    optimiser = torch.optim.SGD(learned, 0.1, momentum=0.9, weight_decay=0.1)
    before = [parameter.detach().clone() for parameter in learned]
    fork.train()
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(fork(IMAGES), LABELS).backward()
        optimiser.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, learned, strict=True))
    assert not group.training
    for encoder, stack in ((fork.image_encoder, boosting().vision), (fork.text_encoder, boosting().text)):
        blocks = list(encoder.transformer.resblocks)
        assert torch.equal(torch.stack([block.boosting_tokens for block in blocks[:2]]), stack)
        assert not any(buffer.requires_grad for block in blocks for buffer in block.buffers())


@pytest.mark.parametrize("host", ["MaPLe", "PromptSRC"], indirect=True)
def test_frozen_copies_get_no_prompt(models):
    _, fork = models
    frozen = fork.prompt_learner.zero_shot_encoder
    before = frozen(IMAGES)
    inject(fork, boosting())
    fork(IMAGES)
    assert torch.equal(frozen(IMAGES), before)


def test_cached_text_features_are_prompted(clip_model):
    native, fork = make("CoOp", clip_model)
    fork.cached = True
    native.cascade(boosting())
    inject(fork, boosting())
    fork.train()
    F.cross_entropy(fork(IMAGES), LABELS).backward()
    fork.eval()
    for _ in range(2):
        torch.testing.assert_close(logits(fork), logits(native), atol=LOGITS, rtol=0)


def test_half_precision(models):
    """float16 weights and autocast differ from float32 by at most 4 times the host's own difference."""
    _, fork = models

    def errors():
        exact = logits(fork)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = logits(fork)
        halved = cast_clip(copy.deepcopy(fork), torch.float16)
        for name in ("token_prefix", "token_suffix"):
            setattr(halved.prompt_learner, name, getattr(halved.prompt_learner, name).to(torch.float16))
        with torch.no_grad():
            half = halved(IMAGES.to(torch.float16))
        assert half.dtype == torch.float16
        return exact, (mixed - exact).abs().max(), (half - exact).abs().max()

    plain, mixed, half = errors()
    inject(fork, boosting(), "host_first")
    cascaded, mixed_error, half_error = errors()
    assert mixed_error < 4 * mixed and half_error < 4 * half
    assert (cascaded - plain).abs().max() > 3 * max(mixed_error, half_error)


def replica_of(model):
    """Return a replica as nn.DataParallel makes one for each device, with copies of all tensors."""
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = replicas.get(child)
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter.detach().clone())
        for name, buffer in module._buffers.items():
            replica._buffers[name] = buffer.clone()
    return replicas[model]


def test_data_parallel(clip_model):
    """Replicas in parallel threads use their own tensors and state."""
    _, fork = make("CoOp", clip_model)
    inject(nn.DataParallel(fork), boosting((1, 5), (1, 3)))
    expected = logits(fork)
    replicas, results = [replica_of(fork) for _ in range(4)], {}
    with torch.no_grad():
        for tensor in itertools.chain(fork.image_encoder.parameters(), fork.text_encoder.parameters(), fork.buffers()):
            tensor.fill_(float("nan"))
        assert logits(fork).isnan().all()
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: [logits(replicas[i]) for _ in range(3)]}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for found in itertools.chain(*results.values()):
        torch.testing.assert_close(found, expected, atol=LOGITS, rtol=0)


def test_copied_model_is_independent(models):
    _, fork = models
    plain = logits(fork)
    injection = inject(fork, boosting())
    other = copy.deepcopy(fork)
    cascaded = logits(fork)
    injection.remove()
    assert torch.equal(logits(fork), plain)
    assert torch.equal(logits(other), cascaded)


def test_text_features_computed_before_are_detected(clip_model):
    _, fork = make("CoOp", clip_model)
    fork.cached = True
    fork.eval()
    logits(fork)
    inject(fork, boosting())
    with pytest.raises(HostError, match="gave a result without its text_encoder.*DEPTH_TEXT 0"):
        logits(fork)


def test_pass_outside_of_encoder_stays_without_prompt(clip_model):
    """Frozen texts that go through the same transformer by another way."""
    _, fork = make("CoOp", clip_model)
    texts = randn(3, "texts", (77, 2, 64))
    plain = fork.text_encoder.transformer(texts)
    inject(fork, boosting())
    cascaded = logits(fork)
    assert torch.equal(fork.text_encoder.transformer(texts), plain)
    assert torch.equal(logits(fork), cascaded)


def test_boolean_masks(clip_model):
    _, fork = make("PromptSRC", clip_model)
    inject(fork, boosting(), "host_first")
    expected = logits(fork)
    for block in fork.text_encoder.transformer.resblocks:
        block.attn_mask = types.SimpleNamespace(to=lambda x, mask=block.attn_mask: mask.isinf())
    torch.testing.assert_close(logits(fork), expected, atol=LOGITS, rtol=0)


@pytest.mark.parametrize(
    "texts, head",
    [
        (["a photo of a tree.", "a photo of a golden retriever dog."], 4),
        (["a photo of a tree.", "a photo of a St.."], 4),  # the tokenizer joins the two full stops
        (["a photo of a tree, at night.", "a photo of a sea, at night."], 2),  # unknown: words follow the name
        (["a photo tree.", "a photo sea."], 2),
    ],
)
def test_head_length_includes_fixed_words(clip_model, texts, head):
    _, fork = make("MaPLe", clip_model)
    encode = tokenizer().encode
    rows = [[SOS, *encode(text), EOT] for text in texts]
    fork.tokenized_prompts = torch.tensor([row + [0] * (77 - len(row)) for row in rows])
    names = [text.split(" a ")[-1].removeprefix("a photo ").split(",")[0] for text in texts]
    fork.prompt_learner.name_lens = [len(encode(name[:-1] if name[-1] == "." else name)) for name in names]
    assert head_length(fork) == head


@pytest.mark.parametrize("host", ["CoOp", "CoCoOp", "MaPLe"], indirect=True)
def test_injected_model_stays_on_device(models, monkeypatch):
    """Comparisons of values, for which the host waits, are replaced by those of shapes and devices."""
    for module in (checks, passes):
        monkeypatch.setattr(
            module, "close", lambda a, b, ulps=0: (a.shape, a.device) == (b.shape, b.device), raising=False
        )
    native, fork = copy.deepcopy(models)
    inject(fork, boosting())
    expected = logits(fork).shape
    move(fork, native)
    learned = [parameter for parameter in fork.parameters() if parameter.requires_grad]
    with checked() as mode:
        found = fork(IMAGES.to(META))
        F.cross_entropy(found, LABELS.to(META)).backward()
    assert found.shape == expected and found.device == META and mode.count > 100
    assert all(parameter.grad.device == META for parameter in learned if parameter.grad is not None)
