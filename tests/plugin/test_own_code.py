"""Injection into models with attention classes, blocks and entrances of their own: exact, or rejected by name."""

import copy
import sys

import pytest
import torch
from conftest import ROOT
from interop import explicit
from plugin.structures import HOSTS, IMAGES, SIZES, Block, Host, OwnAttention, boosting, stock, with_blocks
from torch import nn

import trainers
from trainers.method.prompt_file import BoostingInfo, save_boosting
from trainers.plugin.inject import inject
from trainers.plugin.structure import HostError, NeverRan
from trainers.plugin.trial import try_out

LOGITS = 1e-4  # a scale of 100 spreads logits over some 50


@pytest.fixture
def clip_model():
    return stock()


class ValueFirst(OwnAttention):
    """Takes values before queries."""

    def forward(self, value, key, query, attn_mask=None):
        return super().forward(query, key, value, attn_mask=attn_mask)[0]


class Short(OwnAttention):
    """Its arguments have short names."""

    def forward(self, q, k, v, mask=None):
        return super().forward(q, k, v, attn_mask=mask)[0]


class Single(OwnAttention):
    """Takes one tensor, sequence first."""

    def forward(self, x, mask=None):
        return super().forward(x, x, x, attn_mask=mask)[0]


class MaskFirst(OwnAttention):
    """Takes its mask before the tokens."""

    def forward(self, mask, x):
        return super().forward(x, x, x, attn_mask=mask)[0]


class BatchFirst(OwnAttention):
    """Takes queries, keys and values, batch first, without declaring it."""

    def forward(self, query, key, value, attn_mask=None):
        parts = (each.transpose(0, 1) for each in (query, key, value))
        return super().forward(*parts, attn_mask=attn_mask)[0].transpose(0, 1)


class Wrapped(OwnAttention):
    """Hides its arguments."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)[0]


class Unmasked(OwnAttention):
    """Keeps its mask as an attribute."""

    def forward(self, x):
        return super().forward(x, x, x, attn_mask=self.mask)[0]


def blocks_with(attention, call):
    """A class of blocks with an attention class, and how they call it: `call(block, normed)`."""

    class Own(Block):
        def __init__(self, stock, i):
            super().__init__(stock, i)
            self.attn = attention(stock.attn)
            self.attn.mask = stock.attn_mask

        def forward(self, x):
            x = x + call(self, self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    return Own


class BatchFirstTransformer(nn.Module):
    """Runs its blocks batch first."""

    def __init__(self, stock):
        super().__init__()
        self.resblocks = stock.resblocks

    def forward(self, x):
        return self.resblocks(x.transpose(0, 1)).transpose(0, 1)


def batch_first(clip_model):
    """A host whose blocks and attentions are batch first."""
    host = with_blocks(blocks_with(BatchFirst, lambda block, x: block.attn(x, x, x, block.attn_mask)))(clip_model)
    for tower in (host.image_encoder, host.text_encoder):
        tower.transformer = BatchFirstTransformer(tower.transformer)
    return host


EXACT = {
    "values first": with_blocks(blocks_with(ValueFirst, lambda block, x: block.attn(x, x, x, block.attn_mask))),
    "short names": with_blocks(blocks_with(Short, lambda block, x: block.attn(x, x, x, block.attn_mask))),
    "one tensor": with_blocks(blocks_with(Single, lambda block, x: block.attn(x, block.attn_mask))),
    "mask first": with_blocks(blocks_with(MaskFirst, lambda block, x: block.attn(block.attn_mask, x))),
    "batch first": batch_first,
}


@pytest.mark.parametrize("depths", [(3, 3), (1, 2), (0, 1), (2, 0)])
@pytest.mark.parametrize("kind", EXACT)
def test_own_attention_equals_tokens_in_the_sequence(clip_model, kind, depths):
    """Whatever the order of its arguments and dimensions; the tokens' dimension is found in the first pass."""
    group, other = boosting(*depths), Host(copy.deepcopy(clip_model))
    plain = other(IMAGES).detach()
    explicit.install(other, other.doors, group)
    host = EXACT[kind](clip_model)
    inject(host, group)
    for _ in range(2):
        torch.testing.assert_close(host(IMAGES), other(IMAGES), atol=LOGITS, rtol=0)
    assert (host(IMAGES) - plain).abs().max() > 1


class Dictionary(Block):
    """Returns a dictionary."""

    def forward(self, x):
        x = x["x"] if isinstance(x, dict) else x
        x = x + self.attention(self.ln_1(x))[0]
        return {"x": x + self.mlp(self.ln_2(x))}


class Unpacking(nn.Sequential):
    """Takes the sequence out of what each block returns."""

    def forward(self, x):
        for block in self:
            x = block(x)["x"]
        return x


def with_dictionaries(clip_model):
    host = with_blocks(Dictionary)(clip_model)
    for tower in (host.image_encoder, host.text_encoder):
        tower.transformer.resblocks = Unpacking(*tower.transformer.resblocks)
    return host


class AroundAttention(Block):
    """Calls its attention's code directly, where no hook sees it."""

    def forward(self, x):
        normed = self.ln_1(x)
        x = x + self.attn.forward(normed, normed, normed, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Turned(Block):
    """Takes its sequence batch first, and calls its attention sequence first."""

    def forward(self, x):
        x = x + self.attention(self.ln_1(x).transpose(0, 1))[0].transpose(0, 1)
        return x + self.mlp(self.ln_2(x))


def turned(clip_model):
    host = with_blocks(Turned)(clip_model)
    for tower in (host.image_encoder, host.text_encoder):
        tower.transformer = BatchFirstTransformer(tower.transformer)
    return host


REJECTED = {
    "hidden arguments": (
        with_blocks(blocks_with(Wrapped, lambda block, x: block.attn(x, x, x, attn_mask=block.attn_mask))),
        r"block 0 \(Own\): Wrapped\(\*args, \*\*kwargs\): expected self-attention",
    ),
    "dictionaries": (with_dictionaries, r"block 1 \(Dictionary\): it returns a dict; expected the sequence"),
    "attention without hooks": (
        with_blocks(AroundAttention),
        r"block 0 \(AroundAttention\).*its attention does not get norm_1\(x\)",
    ),
    "other order of dimensions": (turned, r"block 0 \(Turned\).*its attention does not get norm_1\(x\)"),
}


@pytest.mark.parametrize("depths", [(0, 2), (2, 0)])
@pytest.mark.parametrize("kind", REJECTED)
def test_blocks_that_cannot_be_served_are_named(clip_model, kind, depths):
    build, words = REJECTED[kind]
    host = build(clip_model)
    inject(host, boosting(*depths))
    with pytest.raises(HostError, match=f"encoder.transformer.resblocks: {words}.*tokens .DEPTH_"):
        host(IMAGES)


def test_mask_that_is_an_attribute_is_rejected_for_texts_only(clip_model):
    host = with_blocks(blocks_with(Unmasked, lambda block, x: block.attn(x)))(clip_model)
    injection = inject(host, boosting(0, 2))
    assert host(IMAGES).isfinite().all()
    injection.remove()
    inject(host, boosting(2, 0))
    with pytest.raises(HostError, match=r"block 0 \(Own\): its attention gets no causal mask.*DEPTH_TEXT 0"):
        host(IMAGES)


class Biased(OwnAttention):
    """Has a bias for each pair of the host's tokens."""

    def __init__(self, stock):
        super().__init__(stock)
        self.bias = nn.Parameter(torch.zeros(5, 5))

    def forward(self, query, key, value, attn_mask=None):
        mask = self.bias if attn_mask is None else attn_mask
        return super().forward(query, key, value, attn_mask=mask)[0]


def test_attention_for_one_length_is_named_before_training(clip_model):
    host = with_blocks(blocks_with(Biased, lambda block, x: block.attn(x, x, x, block.attn_mask)))(clip_model)
    assert host(IMAGES).isfinite().all()
    injection = inject(host, boosting(0, 2))
    with pytest.raises(
        HostError, match=r"block 0 \(Own\) fails with the boosting tokens \(RuntimeError.*DEPTH_VISION 0"
    ):
        try_out(host, injection, (SIZES.image, SIZES.image))


def test_functional_calls_are_boosted(clip_model):
    """Also where they are verified: tensors of torch.func cannot be copied."""
    host, other = Host(copy.deepcopy(clip_model)), Host(clip_model)
    inject(host, boosting(1, 2))
    inject(other, boosting(1, 2))
    expected = other(IMAGES)
    expected.sum().backward()
    parameters = {name: parameter.clone() for name, parameter in host.named_parameters()}
    torch.testing.assert_close(torch.func.functional_call(host, parameters, (IMAGES,)), expected, atol=LOGITS, rtol=0)
    gradients = torch.func.grad(lambda p: torch.func.functional_call(host, p, (IMAGES,)).sum())(parameters)
    context = other.prompt_learner.ctx.grad
    assert (gradients["prompt_learner.ctx"] - context).norm() <= 1e-5 * context.norm()


class TwoEntrances(Host):
    """Calls its text encoder in evaluation, and around it in training."""

    def features(self, images):
        encode = self.text_encoder.forward if self.training else self.text_encoder
        return self.image_encoder(images), encode(self.prompts(), self.tokenized_prompts)


def test_entrance_of_training_only_is_noticed(clip_model):
    """Without a trial the first training step is rejected; the trial moves the tokens to the common entrance."""
    host = TwoEntrances(clip_model).eval()
    injection = inject(host, boosting(2, 2))
    expected = host(IMAGES)
    with pytest.raises(NeverRan, match="in training it runs text_encoder.transformer.resblocks without TextEncoder"):
        host.train()(IMAGES)
    injection.remove()
    injection = inject(host.eval(), boosting(2, 2))
    assert try_out(host, injection, (SIZES.image, SIZES.image))
    for training in (False, True):
        torch.testing.assert_close(host.train(training)(IMAGES), expected, atol=LOGITS, rtol=0)


@pytest.mark.parametrize("part", ["", "image_encoder", "image_encoder.transformer.resblocks.1.attn"])
def test_compiled_model_is_rejected(clip_model, part, monkeypatch):
    """Code that was compiled before the boosting prompt came would run without it."""
    host = HOSTS["family"](clip_model)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # marks only
    host.get_submodule(part).compile()
    with pytest.raises(HostError, match=f"{part or 'Host'}: compiled by torch.compile.*Compile it after"):
        inject(host, boosting(0, 2))
    inject(host, boosting(2, 0) if part else boosting(0, 0))  # the other tower, and no tokens at all


def test_snippet_of_the_page_for_authors_runs(clip_model, tmp_path, monkeypatch, capsys):
    """The Python code below "Test it" in docs/authors.md, as it is printed there."""
    section = (ROOT / "docs" / "authors.md").read_text().split("## Test it")[1]
    save_boosting(tmp_path / "boosting.safetensors", boosting(2, 1), BoostingInfo())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "caspl", trainers)
    exec(
        section.split("```python")[1].split("\n", 1)[1].split("```")[0],
        {"model": Host(clip_model).train(), "images": IMAGES},
    )
    towers, effect = capsys.readouterr().out.splitlines()
    assert "1 x 3 vision tokens" in towers and "2 x 5 text tokens" in towers
    assert float(effect.removeprefix("tensor(").split(",")[0].rstrip(")")) > 1
