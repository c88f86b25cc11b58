"""Blocks whose values are those of a stock block and whose gradients are not, and parts that mix tokens.

The reference is a loop over the blocks of the image tower with the tokens as rows of its sequence.
"""

import copy

import pytest
import torch
from plugin.structures import IMAGES, Block, boosting, stock, with_blocks
from random_weights import randn
from torch import nn

from trainers.plugin.inject import inject
from trainers.plugin.structure import HostError


class Stock(Block):
    """The two halves of a stock block, which the others override."""

    def attend(self, x):
        return x + self.attention(self.ln_1(x))[0]

    def think(self, x):
        return x + self.mlp(self.ln_2(x))

    def forward(self, x):
        return self.think(self.attend(x))


class CutMLP(Stock):
    def think(self, x):
        return x + self.mlp(self.ln_2(x).detach())


class CutOutput(Stock):
    def think(self, x):
        return x + self.mlp(self.ln_2(x)).detach()


class CutSkip(Stock):
    def attend(self, x):
        return x.detach() + self.attention(self.ln_1(x))[0]


class CutNorm(Stock):
    def attend(self, x):
        return x + self.attention(self.ln_1(x.detach()))[0]


class Frozen(Stock):
    """Its MLP runs without gradients."""

    def think(self, x):
        with torch.no_grad():
            more = self.mlp(self.ln_2(x))
        return x + more


class Shrunk(Stock):
    """Scales gradients with values that stay."""

    def think(self, x):
        more = self.mlp(self.ln_2(x))
        return x + (0.1 * more + 0.9 * more.detach())


class Hooked(Stock):
    """Scales gradients with a hook of a tensor."""

    def think(self, x):
        more = self.mlp(self.ln_2(x))
        if more.requires_grad:
            more.register_hook(lambda gradient: 0.1 * gradient)
        return x + more


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Reversed(Stock):
    def think(self, x):
        return x + Reverse.apply(self.mlp(self.ln_2(x)))


class Before(Stock):
    """An adapter before the first norm."""

    def __init__(self, stock, i):
        super().__init__(stock, i)
        width = stock.ln_1.weight.shape[0]
        self.adapter = nn.Linear(width, width, bias=False)
        self.adapter.weight.data = randn(8, f"adapter.{i}", (width, width), 0.3)

    def attend(self, x):
        return super().attend(x + self.adapter(x))


class Twice(Stock):
    def attend(self, x):
        return super().attend(super().attend(x))


class Training(Before):
    """The adapter is used in training only."""

    def attend(self, x):
        return super().attend(x) if self.training else Stock.attend(self, x)


EXACT = (
    Stock,
    CutMLP,
    CutOutput,
    CutSkip,
    CutNorm,
    Frozen,
    Shrunk,
    Hooked,
    Reversed,
    Before,
    Twice,
    Training,
)


def loop(visual, tokens, images):
    """Image features with tokens (depth, n, d) in the sequence, after the host's tokens."""
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x).transpose(0, 1)
    length = len(x)
    for i, block in enumerate(visual.transformer.resblocks):
        if i < len(tokens):
            own = visual.ln_pre(tokens[0][:, None]) if i == 0 else tokens[i][:, None]
            x = torch.cat([x[:length], own.expand(-1, x.shape[1], -1)])
        x = block(x)
    return visual.ln_post(x[0]) @ visual.proj


def trained(visual, encode):
    """Features, and the gradients of all parameters and of the images."""
    visual.zero_grad()
    images = IMAGES.clone().requires_grad_()
    features = encode(images)
    (features * torch.linspace(-1, 1, features.shape[1])).sum().backward()
    gradients = {name: p.grad.clone() for name, p in visual.named_parameters() if p.grad is not None}
    return features.detach(), gradients | {"images": images.grad}


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", EXACT)
def test_features_and_gradients_equal_a_loop(kind, depth):
    """In the first training pass, and in the first one after evaluation."""
    host, group = with_blocks(kind)(stock()).requires_grad_(True), boosting(0, depth)
    other = copy.deepcopy(host).image_encoder
    expected, gradients = trained(other.train(), lambda images: loop(other, group.vision, images))
    assert (expected - other(IMAGES)).abs().max() > 1e-2
    inject(host, group)
    for evaluated in (0, 5):
        host.eval()
        with torch.no_grad():
            for _ in range(evaluated):
                host.image_encoder(IMAGES)
        found, ours = trained(host.image_encoder.train(), host.image_encoder)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert ours.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


class Mixing(nn.Module):
    """Adds the mean of all tokens to what a part returns."""

    def __init__(self, part):
        super().__init__()
        self.part = part
        self.weight = getattr(part, "weight", None)

    def forward(self, x):
        return self.part(x) + x.mean(dim=0)


def with_mixing(name):
    class Other(Stock):
        def __init__(self, stock, i):
            super().__init__(stock, i)
            setattr(self, name, Mixing(getattr(self, name)))

    return with_blocks(Other)


@pytest.mark.parametrize("name, part", [("ln_1", "norm_1"), ("ln_2", "norm_2"), ("mlp", "mlp")])
def test_part_that_mixes_tokens_is_named(name, part):
    host = with_mixing(name)(stock())
    inject(host, boosting(0, 1))
    state = torch.get_rng_state()
    with pytest.raises(HostError, match=rf"block 0 \(Other\) takes .* \(its {part} mixes tokens\) nor as rows"):
        host(IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
