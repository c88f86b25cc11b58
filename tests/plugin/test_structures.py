"""Injection into small models of every kind of structure that published hosts have, against tokens in the sequence."""

import copy
import logging

import pytest
import torch
from interop import explicit
from one_device import META, checked, move
from plugin.structures import (
    HOSTS,
    IMAGES,
    SIZES,
    TEXT,
    VISION,
    Asleep,
    Host,
    Mixing,
    boosting,
    stock,
    token_ids,
    with_blocks,
)
from torch import nn
from torch.nn import functional as F
from waits import Waits

from trainers.engine import PromptGroup
from trainers.engine.tokens import EOT
from trainers.plugin.inject import inject
from trainers.plugin.structure import HostError, NeverRan, find_towers
from trainers.plugin.trial import try_out

LABELS = torch.tensor([2, 0])
DEPTHS = [(3, 3), (2, 1), (1, 2), (0, 1), (1, 0)]  # text, vision
LOGITS = 1e-4  # a scale of 100 spreads logits over some 50


@pytest.fixture
def clip_model():
    return stock()


def reference(host, group):
    """The same host with tokens in the sequence."""
    other = copy.deepcopy(host)
    explicit.install(other, other.doors, group, other.rerun)
    return other


def step(host):
    """Logits, and gradients of what the host learns."""
    learned = [parameter for parameter in host.parameters() if parameter.requires_grad]
    logits = host(IMAGES)
    gradients = torch.autograd.grad(F.cross_entropy(logits, LABELS), learned, allow_unused=True)
    return logits.detach(), gradients


@pytest.mark.parametrize("depths", DEPTHS)
@pytest.mark.parametrize("kind", HOSTS)
def test_host_equals_tokens_in_its_sequence(clip_model, kind, depths):
    host, group = HOSTS[kind](clip_model), boosting(*depths)
    plain = host(IMAGES).detach()
    expected, gradients = step(reference(host, group))
    injection = inject(host, group)
    for _ in range(3):
        logits, found = step(host)
        torch.testing.assert_close(logits, expected, atol=LOGITS, rtol=0)
        for a, b in zip(found, gradients, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a - b).norm() <= 1e-4 * b.norm()
    assert (expected - plain).abs().max() > 1e-2
    injection.remove()
    assert torch.equal(host(IMAGES), plain)


def test_adapter_blocks_take_rows_and_the_log_has_the_reason(clip_model, caplog):
    host = HOSTS["adapter"](clip_model)
    injection = inject(host, boosting(1, 3))
    with caplog.at_level(logging.INFO):
        host(IMAGES)
    assert [hooks.modes for hooks in injection.hooks] == [["keys and values"] * 3, ["rows"] * 2 + ["keys and values"]]
    assert (
        "block 1 takes the boosting tokens as rows of its sequence, because it does not return x + mlp" in caplog.text
    )
    assert "as rows in 2 of 3 blocks" in injection.describe()


def test_adapter_that_wakes_up_is_found_at_the_next_verified_pass(clip_model):
    host, group = with_blocks(Asleep)(clip_model), boosting(1, 1)
    injection = inject(host, group)
    host(IMAGES)
    assert not any("rows" in hooks.modes for hooks in injection.hooks)
    for tower in (host.image_encoder, host.text_encoder):
        for block in tower.transformer.resblocks:
            block.adapter.weight.data += 0.1
    found = host(IMAGES)
    injection.remove()
    torch.testing.assert_close(found, reference(host, group)(IMAGES), atol=LOGITS, rtol=0)


def test_trial_finds_an_adapter_that_starts_at_zero(clip_model):
    host = with_blocks(Asleep)(clip_model).requires_grad_(True)
    injection = inject(host, boosting(1, 1))
    before = {key: value.clone() for key, value in host.state_dict().items()}
    state = torch.get_rng_state()
    assert try_out(host, injection, (SIZES.image, SIZES.image))
    assert all(hooks.modes[:2] == ["rows"] * 2 and not hooks.passes for hooks in injection.hooks)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in host.state_dict().items())


def test_block_that_mixes_tokens_is_rejected(clip_model):
    host = with_blocks(Mixing)(clip_model)
    injection = inject(host, boosting(0, 3))
    assert host(IMAGES).isfinite().all()  # as deep as the tower: nothing is carried
    injection.remove()
    injection = inject(host, boosting(0, 1))
    words = r"image_encoder.transformer.resblocks: block 0 \(Mixing\) takes the boosting tokens neither as keys and values \(it"
    with pytest.raises(HostError, match=words):
        host(IMAGES)
    injection.remove()
    injection = inject(host, boosting(1, 0))
    with pytest.raises(HostError, match="as deep as the tower, or without text tokens"):
        try_out(host, injection, (SIZES.image, SIZES.image))


class AfterNorm(Host):
    """Adds something between `ln_pre` and the first block."""

    def __init__(self, clip_model):
        super().__init__(clip_model)
        self.image_encoder.transformer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def test_change_before_the_first_block_is_rejected(clip_model):
    host = AfterNorm(clip_model)
    inject(host, boosting(0, 1))
    with pytest.raises(HostError, match="between the norm before the blocks and the first block"):
        host(IMAGES)


class AroundDoor(Host):
    """Calls the parts of its encoders, never the encoders."""

    doors = {"vision": ("image_encoder.transformer", *VISION[1:]), "text": ("text_encoder.transformer", *TEXT[1:])}

    def features(self, images):
        return self.image_encoder.forward(images), self.text_encoder.forward(self.prompts(), self.tokenized_prompts)


@pytest.mark.parametrize("depths", DEPTHS)
def test_trial_moves_the_door_to_the_module_that_runs(clip_model, depths):
    host, group = AroundDoor(clip_model), boosting(*depths)
    injection = inject(host, group)
    assert try_out(host, injection, (SIZES.image, SIZES.image))
    found = host(IMAGES)
    injection.remove()
    torch.testing.assert_close(found, reference(host, group)(IMAGES), atol=LOGITS, rtol=0)


class KeptFeatures(Host):
    """Keeps a text encoder that never runs (MaPLe's VPT)."""

    def __init__(self, clip_model):
        super().__init__(clip_model)
        self.kept = self.text_encoder(self.prompts(), self.tokenized_prompts).detach()

    def features(self, images):
        return self.image_encoder(images) + self.prompt_learner.ctx[0, :32], self.kept


def test_text_encoder_that_never_runs_is_found_by_the_trial(clip_model):
    host = KeptFeatures(clip_model)
    injection = inject(host, boosting(1, 1))
    with pytest.raises(NeverRan, match="does not run text_encoder.*DEPTH_TEXT 0") as caught:
        try_out(host, injection, (SIZES.image, SIZES.image))
    assert caught.value.kind == "text"


def test_verification_draws_no_random_numbers_and_changes_no_statistics(clip_model):
    """Dropout and BatchNorm in a block's MLP: as deep as the tower, the same state as in the host alone."""
    host = Host(clip_model)
    for tower in (host.image_encoder, host.text_encoder):
        for block in tower.transformer.resblocks:
            block.mlp = nn.Sequential(block.mlp, nn.Dropout(0.5), Statistics())
    host.train()
    torch.manual_seed(0)
    host(IMAGES)
    state, counts = torch.get_rng_state(), [int(value) for key, value in host.state_dict().items() if "count" in key]
    host.load_state_dict({key: value * ("count" not in key) for key, value in host.state_dict().items()})
    inject(host, boosting(3, 3))
    torch.manual_seed(0)
    host(IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert [int(value) for key, value in host.state_dict().items() if "count" in key] == counts


class Statistics(nn.Module):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x


def test_only_towers_with_tokens_are_needed(clip_model):
    host = Host(clip_model)
    host.image_encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZES.image**2, 32))
    plain = host(IMAGES).detach()
    inject(host, boosting(2, 0))
    assert (host(IMAGES) - plain).abs().max() > 1e-2
    with pytest.raises(HostError, match="no vision tower found"):
        inject(host, boosting(0, 2))


def test_prompt_without_tokens_changes_nothing(clip_model):
    host = Host(clip_model)
    plain, hooks = host(IMAGES), sum(len(module._forward_hooks) for module in host.modules())
    injection = inject(host, PromptGroup(torch.zeros(2, 0, 128), torch.zeros(0, 0, 64)))
    assert torch.equal(host(IMAGES), plain) and not injection.hooks
    assert sum(len(module._forward_hooks) for module in host.modules()) == hooks + 1


@pytest.mark.parametrize("kind", HOSTS)
def test_towers_are_found(clip_model, kind):
    host = HOSTS[kind](clip_model)
    towers = find_towers(nn.DataParallel(host))
    for tower in towers.values():
        blocks = explicit.find(host, host.doors[tower.kind][1])
        assert tower.blocks is blocks.resblocks
        assert tower.door is explicit.find(host, host.doors[tower.kind][0])


@pytest.mark.parametrize("kind", HOSTS)
def test_host_waits_in_first_passes_only(clip_model, kind):
    """Passes 0, 1, 2, 4, 8, ... are verified; the others compare no values and do not wait for the device."""
    host = HOSTS[kind](clip_model)
    inject(host, boosting(1, 3))
    waits = []
    for _ in range(8):
        with pytest.MonkeyPatch.context() as patch, Waits(patch) as mode:
            F.cross_entropy(host(IMAGES), LABELS).backward()
        waits.append(mode.count)
    assert [count > 0 for count in waits] == [True, True, True, False, True, False, False, False]


@pytest.mark.parametrize("kind", HOSTS)
def test_injected_host_stays_on_its_device(clip_model, kind):
    host = HOSTS[kind](clip_model)
    inject(host, boosting(1, 3))
    for _ in range(3):
        expected = host(IMAGES).shape
    move(host)
    with checked() as mode:  # pass 3, which is not verified
        found = host(IMAGES.to(META))
        F.cross_entropy(found, LABELS.to(META)).backward()
    assert found.shape == expected and found.device == META and mode.count > 100


def test_text_that_grows_after_the_checks_makes_the_logits_nan(clip_model):
    host = HOSTS["flat"](clip_model)
    inject(host, boosting(2, 1))
    for _ in range(3):
        assert host(IMAGES).isfinite().all()
    word, end = host.token_embedding.weight[int(token_ids()[1, 5])], host.token_embedding.weight[EOT]
    grown = torch.cat([word.expand(73, -1), end[None]]) + host.text_pos_embedding[2:76]
    host.text_x[1, 2:76] = grown.detach()
    host.ends[1] = 76
    found = host(IMAGES)
    assert found[:, 1].isnan().all() and found[:, [0, 2]].isfinite().all()
    with pytest.raises(HostError, match="no room for 5 boosting tokens"):  # pass 4 is verified
        host(IMAGES)
