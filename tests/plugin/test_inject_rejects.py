"""Models that an injection rejects and leaves unchanged."""

import copy

import pytest
import torch
from forked import NAMES, boosting, logits, make, shape_of, stock

from trainers.engine import PromptGroup
from trainers.engine.tokens import EOT
from trainers.plugin.inject import inject


@pytest.fixture(scope="module")
def clip_model():
    return stock()


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
