"""Gradient checkpointing of models with a boosting prompt: gradients of the plain run, or rejected by name."""

import functools
import gc

import pytest
import torch
from plugin.structures import IMAGES, Adapted, Block, InsertingHost, boosting, stock, with_blocks
from plugin.test_whole_clips import MODELS, siglip
from plugin.test_whole_clips import boosting as narrow
from plugin.test_whole_clips import state as state_of_whole_clips
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import trainers
from trainers.engine import PromptGroup
from trainers.plugin.inject import inject
from trainers.plugin.structure import HostError

LABELS = torch.tensor([2, 0])
PASSES = 2
state = pytest.fixture(scope="module")(state_of_whole_clips.__wrapped__)


class Stock(Block):
    """Computes what a stock block does."""

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))[0]
        return x + self.mlp(self.ln_2(x))


HOSTS = {"stock": with_blocks(Stock), "adapter": with_blocks(Adapted), "insertion": InsertingHost}


def blocks_of(host):
    return [block for tower in (host.image_encoder, host.text_encoder) for block in tower.transformer.resblocks]


def each_block(host, again):
    for tower in (host.image_encoder, host.text_encoder):
        blocks = tower.transformer.resblocks
        blocks.forward = lambda x, blocks=blocks: functools.reduce(lambda x, block: again(block, x), blocks, x)


def two_blocks(host, again):
    for tower in (host.image_encoder, host.text_encoder):
        first, second, third = tower.transformer.resblocks
        tower.transformer.resblocks.forward = lambda x, a=first, b=second, c=third: again(
            c, again(lambda x: b(a(x)), x)
        )


def forward_passes(host, again):
    """Hooks of the blocks stay outside (Hugging Face 5)."""
    for block in blocks_of(host):
        block.forward = functools.partial(again, block.forward)


def attentions(host, again):
    for block in blocks_of(host):
        block.attention = functools.partial(again, block.attention)


def attentions_with_norms(host, again):
    for block in blocks_of(host):
        block.forward = functools.partial(_in_halves, block, again)


def _in_halves(block, again, x):
    x = x + again(lambda x: block.attention(block.ln_1(x))[0], x)
    return x + again(lambda x: block.mlp(block.ln_2(x)), x)


def mlps(host, again):
    for block in blocks_of(host):
        block.mlp.forward = functools.partial(again, block.mlp.forward)


def transformers(host, again):
    for tower in (host.image_encoder, host.text_encoder):
        tower.transformer.forward = functools.partial(again, tower.transformer.forward)


def whole_towers(host, again):
    host.features = lambda images: (
        again(host.image_encoder, images),
        again(
            host.text_encoder, host.prompts(), host.tokenized_prompts.roll(2 * isinstance(host, InsertingHost), dims=1)
        ),
    )


PARTS = {
    "each block": each_block,
    "two blocks": two_blocks,
    "forward passes": forward_passes,
    "attentions": attentions,
    "MLPs": mlps,
    "transformers": transformers,
    "whole towers": whole_towers,
}
STOCK_PARTS = PARTS | {"attentions with norms": attentions_with_norms}
QUICK = [("stock", part) for part in STOCK_PARTS]
QUICK += [("adapter", "each block"), ("adapter", "forward passes"), ("insertion", "each block")]
SLOW = [(kind, part) for kind in ("adapter", "insertion") for part in PARTS if (kind, part) not in QUICK]
SLOW.remove(("insertion", "forward passes"))  # rejected


def trained(model, loss):
    """Gradients of all parameters and of the images."""
    model.zero_grad()
    images = IMAGES.clone().requires_grad_()
    loss(images).backward()
    return {"images": images.grad} | {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


def loss_of(host):
    """Two forward passes before a backward pass: the second one of other images and texts."""

    def loss(images):
        first = F.cross_entropy(host(images), LABELS)
        second = F.cross_entropy(host(images.flip(0) + 0.3) / 50, LABELS)
        return first + second

    return loss


def checkpointed(reentrant):
    return functools.partial(checkpoint, use_reentrant=reentrant)


def make(kind):
    return HOSTS[kind](stock()).requires_grad_(True)


def compare(kind, part, depths, passes):
    host, group = make(kind), boosting(*depths)
    injection = inject(host, group)
    with torch.no_grad():  # adapters' blocks change to rows
        host(IMAGES)
    expected = trained(host, loss_of(host))
    STOCK_PARTS[part](host, checkpointed(False))
    for _ in range(passes):
        assert_same(trained(host, loss_of(host)), expected)
    injection.remove()
    plain = trained(host, loss_of(host))
    assert (plain["images"] - expected["images"]).norm() > 0.1 * expected["images"].norm()


@pytest.mark.parametrize("kind, part", QUICK)
def test_gradients_equal_those_without_checkpointing(kind, part):
    compare(kind, part, (1, 2), 2)


@pytest.mark.slow
@pytest.mark.parametrize("depths", [(3, 3), (1, 2)])
@pytest.mark.parametrize("kind, part", QUICK + SLOW)
def test_gradients_of_many_passes_equal_those_without_checkpointing(kind, part, depths):
    """Verified passes and others."""
    compare(kind, part, depths, 5)


@pytest.mark.parametrize("part", STOCK_PARTS)
def test_reentrant_checkpointing_is_exact_or_rejected_in_the_forward_pass(part):
    host = make("stock")
    inject(host, boosting(1, 2))
    if part in ("MLPs", "whole towers"):
        expected = trained(host, loss_of(host))
        STOCK_PARTS[part](host, checkpointed(True))
        assert_same(trained(host, loss_of(host)), expected)
        return
    STOCK_PARTS[part](host, checkpointed(True))
    with torch.no_grad():
        host(IMAGES)
    with pytest.raises(HostError, match="block 0 runs in reentrant gradient checkpointing.*use_reentrant=False"):
        host(IMAGES.clone().requires_grad_())


def test_passes_are_forgotten_with_their_graph():
    host = make("stock")
    injection = inject(host, boosting(1, 2))
    each_block(host, checkpointed(False))
    loss = loss_of(host)(IMAGES)
    assert all(len(hooks.memory) for hooks in injection.hooks)
    loss.backward()
    del loss
    gc.collect()
    assert not any(len(hooks.memory) for hooks in injection.hooks)


def test_frozen_blocks_without_gradients_are_accepted():
    """A host may run its first blocks under torch.no_grad(): no gradient passes them, with tokens or without."""
    host = make("stock")
    group = boosting(0, 1)
    inject(host, group)
    blocks = host.image_encoder.transformer.resblocks

    def forward(x):
        with torch.no_grad():
            x = blocks[1](blocks[0](x))
        return blocks[2](x)

    expected = host(IMAGES)
    blocks.forward = forward
    torch.testing.assert_close(host(IMAGES), expected)


@pytest.mark.parametrize("kind", ["stock", "adapter"])
def test_checkpointing_before_the_prompt_is_exact(kind):
    host, group = make(kind), boosting(1, 2)
    injection = inject(host, group)
    expected = trained(host, loss_of(host))
    injection.remove()
    forward_passes(host, checkpointed(False))
    inject(host, group)
    for _ in range(2):
        assert_same(trained(host, loss_of(host)), expected)


def test_part_whose_tensors_are_new_is_rejected():
    """The block inserts tokens of its host before its first norm."""
    host = make("insertion")
    inject(host, boosting(1, 2))
    forward_passes(host, checkpointed(False))
    with pytest.raises(HostError, match="block 1 runs again in the backward pass.*Turn gradient checkpointing off"):
        loss_of(host)(IMAGES).backward()


def test_plain_pass_that_runs_again_is_rejected():
    """Another entrance to the same blocks has no tokens that could be found again."""
    host = make("stock")
    inject(host, boosting(2, 1))
    each_block(host, checkpointed(False))
    texts = torch.randn(77, 2, 128, requires_grad=True)
    with pytest.raises(HostError, match="block 2 runs again in the backward pass"):
        host.text_encoder.transformer(texts).sum().backward()


def loss_of_whole(model):
    def loss(images):
        image, text = model.image(images), model.text()
        return (image * image.detach()).sum() + (text * text.detach()).sum()

    return loss


@pytest.mark.parametrize("depths", [(3, 3), (1, 2)])
@pytest.mark.parametrize("name", ["open_clip", "open_clip custom text", "hugging face", "hugging face eager"])
def test_whole_clips_are_exact_with_their_own_switch(name, depths, state):
    wrapped = MODELS[name](state)
    model = wrapped.model.train()
    switch = {"gradient_checkpointing_kwargs": {"use_reentrant": False}} if name.startswith("hugging") else {}
    enable = model.gradient_checkpointing_enable if switch else model.set_grad_checkpointing
    injection = trainers.inject(model, narrow(*depths))
    expected = trained(model, loss_of_whole(wrapped))
    enable(**switch)
    for _ in range(PASSES):
        assert_same(trained(model, loss_of_whole(wrapped)), expected)
    injection.remove()
    trainers.inject(model, narrow(*depths))
    assert_same(trained(model, loss_of_whole(wrapped)), expected)


@pytest.mark.parametrize("before", [True, False])
def test_reentrant_checkpointing_of_hugging_face_is_rejected(state, before):
    wrapped = MODELS["hugging face"](state)
    model = wrapped.model.train()
    if not before:
        trainers.inject(model, narrow(1, 1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    if before:
        trainers.inject(model, narrow(1, 1))
    for call in (lambda: wrapped.image(IMAGES[..., :16, :16].requires_grad_()), wrapped.text):
        with pytest.raises(HostError, match="gradient_checkpointing_kwargs={.use_reentrant.: False}"):
            call()


def test_timm_tower_is_exact_with_its_own_switch():
    model = siglip().train()
    group = PromptGroup(torch.zeros(0, 0, 64), narrow(0, 2).vision)
    trainers.inject(model, group)

    def loss(images):
        features = model.encode_image(images)
        return (features * features.detach()).sum()

    expected = trained(model, loss)
    model.visual.trunk.set_grad_checkpointing()
    for _ in range(PASSES):
        assert_same(trained(model, loss), expected)
