"""Injection into models of other toolboxes: one model for each kind of block, against our own hosts' cascade."""

import copy
import itertools
import threading
import types

import pytest
import torch
from interop.forks import Fork
from one_device import META, checked, move
from recipe import Spec, clip_state_dict, randn
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint_sequential

from trainers.backbones import build_clip, tokenizer
from trainers.engine import ORDERS, PromptGroup
from trainers.engine.precision import cast_clip
from trainers.engine.tokens import EOT, SOS
from trainers.hosts import cocoop, coop, maple, promptsrc
from trainers.plugin import checks, passes
from trainers.plugin.inject import inject
from trainers.plugin.structure import HostError
from trainers.plugin.texts import head_length

LAYERS = 3
SMALL = Spec(vision_width=64, text_width=64, embed_dim=32, vision_layers=LAYERS, text_layers=LAYERS, patch=8, grid=2)
DEPTHS = [pair for pair in itertools.product(range(LAYERS + 1), repeat=2) if any(pair)]  # text, vision
NAMES = ["tree", "golden retriever dog", "a", "Boeing 737-800", "hot_air_balloon festival at night"]
PHOTO = "a photo of a"
IMAGES = randn(1, "images", (2, 3, SMALL.image, SMALL.image))
LABELS = torch.tensor([3, 1])
# Two float32 computations of the same logits, which a scale of 100 spreads over some 50.
LOGITS = 1e-4


@pytest.fixture(scope="module")
def clip_model():
    tokens = {SOS, EOT} | {t for name in NAMES for t in tokenizer().encode(f"X {PHOTO} {name.replace('_', ' ')}.")}
    return build_clip(clip_state_dict(SMALL, 3, tokens))


def make(host, clip_model, **options):
    """Return our own model of a host, and its counterpart in another toolbox with the same parameters."""
    torch.manual_seed(0)
    if host == "CoOp":
        native, n_ctx, words = coop.build(clip_model, NAMES, 4, **options), 4, ""
    elif host == "CoCoOp":
        native, n_ctx, words = cocoop.build(clip_model, NAMES, 4), 4, ""
    elif host == "MaPLe":  # its context takes two of the words, the other two stay
        native, n_ctx, words = maple.build(clip_model, NAMES, 2, PHOTO, 2), 2, PHOTO
    else:
        native, n_ctx, words = (
            promptsrc.build(clip_model, NAMES, 3, 2, PHOTO, 2, 3, templates=[PHOTO + " {}."]),
            2,
            PHOTO,
        )
    fork = Fork(host, native, NAMES, n_ctx, words, options.get("class_token_position", "end"))
    learned = {id(parameter) for parameter in native.prompt_learner.parameters()}
    for parameter in itertools.chain(native.parameters(), fork.parameters()):
        parameter.requires_grad_(id(parameter) in learned)
    return native, fork


@pytest.fixture(params=["CoOp", "CoCoOp", "MaPLe", "PromptSRC"])
def host(request):
    return request.param


@pytest.fixture
def models(host, clip_model):
    return make(host, clip_model)


def boosting(text=(2, 5), vision=(2, 3)):
    """Return a boosting prompt with the depth and number of tokens of each tower."""
    layers = [randn(2, name, (*shape, 64), 0.3) for name, shape in (("text", text), ("vision", vision))]
    return PromptGroup(*layers).freeze()


@torch.no_grad()
def logits(model):
    return model(IMAGES)


def shape_of(model):
    """Return the names and numbers of everything that an injection adds to."""
    hooks = [(m._forward_hooks, m._forward_pre_hooks, m._forward_hooks_with_kwargs) for m in model.modules()]
    names = [
        sorted(dict(named)) for named in (model.named_buffers(), model.named_parameters(), model.state_dict().items())
    ]
    return names, [[len(each) for each in module] for module in hooks]


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


def without(owner, name):
    delattr(owner, name)


def resnet(fork):
    from clip.model import ModifiedResNet

    fork.image_encoder = ModifiedResNet((1, 1, 1, 1), 32, 4, 64, 8)


def too_long(fork):
    fork.tokenized_prompts = torch.zeros(len(NAMES), 77, dtype=torch.long)
    fork.tokenized_prompts[:, 71] = EOT
    fork.tokenized_prompts[3, 71:73] = torch.tensor([5, EOT])


def two_towers(fork):
    fork.first, fork.second = fork.image_encoder, copy.deepcopy(fork.image_encoder)
    del fork.image_encoder


def without_mask(fork):
    for block in fork.text_encoder.transformer.resblocks:
        block.attn_mask = None


BROKEN = {
    "no text encoder": (lambda f: without(f, "text_encoder"), {}, "Fork: no text tower found"),
    "no ln_pre": (
        lambda f: without(f.image_encoder, "ln_pre"),
        {},
        "Fork: no vision tower found.*image_encoder has conv1",
    ),
    "block without mlp": (
        lambda f: without(f.text_encoder.transformer.resblocks[1], "mlp"),
        {},
        "no text tower found; expected blocks with attn, ln_1, ln_2 and mlp next to a table positional_embedding",
    ),
    "ResNet": (resnet, {}, "ModifiedResNet, which has no vision tokens.*choose a ViT"),
    "two towers": (
        two_towers,
        {},
        r"found 2 vision towers \(first.transformer.resblocks, second.transformer.resblocks\)",
    ),
    "no learner": (lambda f: without(f, "prompt_learner"), {"order": "host_first"}, "Use boosting_first"),
    "order": (lambda f: None, {"order": "sideways"}, "TEXT_ORDER: 'sideways'; expected one of"),
    "too deep": (lambda f: None, {"group": boosting((4, 2))}, "4 text layers; expected at most 3"),
    "too wide": (
        lambda f: None,
        {"group": PromptGroup(torch.zeros(1, 2, 8), torch.zeros(1, 2, 64))},
        "tokens of width 8; expected 64",
    ),
    "too long": (too_long, {"class_names": NAMES}, "class name 'Boeing 737-800' is too long.* 78 tokens"),
    "no causal mask": (without_mask, {}, "text tower has no causal mask.*DEPTH_TEXT 0"),
    "again": (lambda f: inject(f, boosting()), {}, "has a boosting prompt already"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_inject_rejects_model_and_leaves_it_unchanged(clip_model, what):
    _, fork = make("PromptSRC" if "mask" in what else "CoOp", clip_model)
    spoil, options, words = BROKEN[what]
    spoil(fork)
    before = shape_of(fork)
    with pytest.raises(ValueError, match=words):
        inject(fork, **({"group": boosting()} | options))
    assert shape_of(fork) == before


def test_failure_halfway_leaves_the_model_alone(clip_model, monkeypatch):
    _, fork = make("CoOp", clip_model)
    before, plain = shape_of(fork), logits(fork)
    last = fork.text_encoder.transformer.resblocks[-1].attn
    monkeypatch.setattr(last, "register_forward_hook", lambda hook: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        inject(fork, boosting())
    assert shape_of(fork) == before
    assert torch.equal(logits(fork), plain)


def test_longest_texts_are_accepted(clip_model):
    """One token less than what is rejected: EOT at the last position."""
    _, fork = make("CoOp", clip_model)
    too_long(fork)
    inject(fork, boosting((2, 4)))
    assert logits(fork).isfinite().all()


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


def test_gradient_checkpointing_is_rejected(clip_model):
    _, fork = make("CoOp", clip_model)
    blocks = fork.text_encoder.transformer.resblocks
    blocks.forward = lambda x: checkpoint_sequential(blocks, LAYERS, x, use_reentrant=False)
    inject(fork, boosting())
    with pytest.raises(HostError, match="gradient checkpointing"):
        fork(IMAGES).sum().backward()


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
