"""Small models of every kind of structure that published hosts have; written for these tests."""

import copy
import functools

import torch
from random_weights import Spec, clip_state_dict, randn
from torch import nn
from torch.nn import functional as F

from trainers.backbones import build_clip, tokenizer
from trainers.engine import PromptGroup
from trainers.engine.tokens import EOT, SOS

LAYERS = 3
SIZES = Spec(vision_width=64, text_width=128, embed_dim=32, vision_layers=LAYERS, text_layers=LAYERS, patch=8, grid=2)
NAMES = ["tree", "golden retriever dog", "Boeing 737-800"]
IMAGES = randn(1, "images", (2, 3, SIZES.image, SIZES.image))
TEXT = ("text_encoder", "text_encoder.transformer", "text_encoder.positional_embedding")
VISION = ("image_encoder", "image_encoder.transformer", "image_encoder.ln_pre")


def token_ids():
    rows = [[SOS, *tokenizer().encode(f"a photo of a {name}."), EOT] for name in NAMES]
    return torch.tensor([row + [0] * (77 - len(row)) for row in rows])


@functools.cache
def _stock():
    return build_clip(clip_state_dict(SIZES, 3, set(token_ids().flatten().tolist())))


def stock():
    """A small CLIP, which may be changed."""
    return copy.deepcopy(_stock())


def boosting(text, vision):
    """A boosting prompt of two depths."""
    return PromptGroup(randn(2, "text", (text, 5, 128), 0.3), randn(2, "vision", (vision, 3, 64), 0.3)).freeze()


class TextEncoder(nn.Module):
    """CLIP's text tower after the token embedding."""

    def __init__(self, clip_model):
        super().__init__()
        self.transformer, self.ln_final = clip_model.transformer, clip_model.ln_final
        self.positional_embedding, self.text_projection = clip_model.positional_embedding, clip_model.text_projection

    def forward(self, prompts, ids):
        x = self.transformer((prompts + self.positional_embedding).transpose(0, 1))
        x = self.ln_final((x[0] if isinstance(x, tuple) else x).transpose(0, 1))
        return x[torch.arange(len(x)), ids.argmax(dim=-1)] @ self.text_projection


class Host(nn.Module):
    """A host in the CoOp family's form; learns a context of one token."""

    doors = {"vision": VISION, "text": TEXT}
    rerun: tuple = ()

    def __init__(self, clip_model):
        super().__init__()
        self.image_encoder, self.text_encoder = clip_model.visual, TextEncoder(clip_model)
        self.prompt_learner = nn.Module()
        self.prompt_learner.ctx = nn.Parameter(randn(4, "context", (1, 128), 0.1))
        self.register_buffer("tokenized_prompts", token_ids(), persistent=False)
        self.register_buffer("embedded", clip_model.token_embedding(token_ids()).detach(), persistent=False)
        for parameter in self.parameters():
            parameter.requires_grad_(parameter is self.prompt_learner.ctx)

    def prompts(self):
        context = self.prompt_learner.ctx.expand(len(self.embedded), -1, -1)
        return torch.cat([self.embedded[:, :1], context, self.embedded[:, 2:]], dim=1)

    def features(self, images):
        return self.image_encoder(images), self.text_encoder(self.prompts(), self.tokenized_prompts)

    def forward(self, images):
        image, text = (F.normalize(features, dim=-1) for features in self.features(images))
        return 100 * image @ text.t()


class Levels(Host):
    """The text encoder in an nn.DataParallel, the image tower two levels down (LASP, ProText)."""

    doors = {
        "vision": ("frozen.model.visual", "frozen.model.visual.transformer", "frozen.model.visual.ln_pre"),
        "text": TEXT,
    }

    def __init__(self, clip_model):
        super().__init__(clip_model)
        self.frozen = nn.Module()
        self.frozen.model = nn.Module()
        self.frozen.model.visual = self.image_encoder
        del self.image_encoder
        self.text_encoder = nn.DataParallel(self.text_encoder)

    def features(self, images):
        if not images.is_cuda:
            self.text_encoder.device_ids = []  # as on a machine without GPUs
        return self.frozen.model.visual(images), self.text_encoder(self.prompts(), self.tokenized_prompts)


class WholeCLIP(Host):
    """A text encoder that holds a whole CLIP and calls its `encode_text` (CLIP-Adapter)."""

    doors = {
        "vision": VISION,
        "text": ("text_encoder", "text_encoder.clip.transformer", "text_encoder.clip.positional_embedding"),
    }

    class Encoder(nn.Module):
        def __init__(self, clip_model):
            super().__init__()
            self.clip = clip_model

        def forward(self):
            return self.clip.encode_text(token_ids().to(self.clip.text_projection.device))

    def __init__(self, clip_model):
        super().__init__(clip_model)
        self.text_encoder = self.Encoder(clip_model).requires_grad_(False)

    def features(self, images):
        return self.image_encoder(images) + self.prompt_learner.ctx[0, :32], self.text_encoder()


class MaskedTransformer(nn.Module):
    """Passes a mask to its blocks, which keep it (RPO)."""

    def __init__(self, stock):
        super().__init__()
        self.resblocks = stock.resblocks

    def forward(self, x, mask):
        for block in self.resblocks:
            block.attn_mask = mask
            x = block(x)
        return x


class Flat(nn.Module):
    """Parts of both towers as the model's own attributes; a learned token after EOT, read there, without position (RPO)."""

    doors = {
        "vision": ("img_transformer", "img_transformer", "img_pre_ln"),
        "text": ("text_transformer", "text_transformer", "text_pos_embedding"),
    }
    rerun = ()

    def __init__(self, clip_model):
        super().__init__()
        visual = clip_model.visual
        self.token_embedding, self.text_pos_embedding = clip_model.token_embedding, clip_model.positional_embedding
        self.text_transformer, self.text_ln_final = MaskedTransformer(clip_model.transformer), clip_model.ln_final
        self.text_proj, self.img_proj = clip_model.text_projection, visual.proj
        self.img_patch_embedding, self.img_cls_embedding = visual.conv1, visual.class_embedding
        self.img_pos_embedding, self.img_pre_ln, self.img_post_ln = (
            visual.positional_embedding,
            visual.ln_pre,
            visual.ln_post,
        )
        self.img_transformer = MaskedTransformer(visual.transformer)
        self.requires_grad_(False)
        self.learned = nn.ParameterList([randn(5, "text", (128,), 0.1), randn(5, "image", (64,), 0.1)])
        self.text_tokenized = token_ids()
        self.text_x = (self.token_embedding(self.text_tokenized) + self.text_pos_embedding).detach()
        self.ends = self.text_tokenized.argmax(dim=-1) + 1
        masks = torch.full((len(NAMES), 77, 77), float("-inf")).triu(1)
        for mask, end in zip(masks, self.ends, strict=True):
            mask[:, end:] = float("-inf")
        self.text_mask = masks.repeat_interleave(2, dim=0)
        self.image_mask = torch.zeros(6, 6)
        self.image_mask[:, -1:] = float("-inf")

    def _apply(self, *args, **kwargs):
        """Move the tensors that are plain attributes, too."""
        super()._apply(*args, **kwargs)
        for name in ("text_x", "ends", "text_mask", "image_mask"):
            setattr(self, name, getattr(self, name).to(self.text_proj.device))
        return self

    def forward(self, images):
        x = self.text_x.clone()
        x[torch.arange(len(x), device=x.device), self.ends] = self.learned[0]
        x = self.text_ln_final(self.text_transformer(x.transpose(0, 1), self.text_mask).transpose(0, 1))
        text = x[torch.arange(len(x)), self.ends] @ self.text_proj
        x = self.img_patch_embedding(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.img_cls_embedding.expand(len(x), 1, -1), x], dim=1) + self.img_pos_embedding
        x = self.img_pre_ln(torch.cat([x, self.learned[1].expand(len(x), 1, -1)], dim=1))
        image = self.img_post_ln(self.img_transformer(x.transpose(0, 1), self.image_mask)[-1]) @ self.img_proj
        return 100 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).t()


class Block(nn.Module):
    """A block in the parts of a stock one."""

    alike = False  # whether the reference runs tokens through the block itself

    def __init__(self, stock, i):
        super().__init__()
        self.attn, self.ln_1, self.mlp, self.ln_2 = stock.attn, stock.ln_1, stock.mlp, stock.ln_2
        self.attn_mask, self.i = stock.attn_mask, i

    def attention(self, x, **options):
        mask = None if self.attn_mask is None else self.attn_mask.to(x.device)
        return self.attn(x, x, x, attn_mask=mask, **({"need_weights": False} | options))


def with_blocks(kind):
    """A host class whose blocks are of one kind."""

    class Other(Host):
        rerun = ("text", "vision") if kind.alike else ()

        def __init__(self, clip_model):
            super().__init__(clip_model)
            for tower in (clip_model.visual.transformer, clip_model.transformer):
                blocks = [kind(block, i) for i, block in enumerate(tower.resblocks)]
                tower.resblocks = (Chain if kind is Reading else nn.Sequential)(*blocks)

    return Other


class Chain(nn.Sequential):
    """Blocks that return their attention weights too; those of the last block count (TextRefiner)."""

    def forward(self, x):
        for block in self:
            x, weights = block(x)
        return x + weights[:, :, :1].transpose(0, 1)


class Reading(Block):
    """Returns the weights of its attention."""

    def forward(self, x):
        attended, weights = self.attention(self.ln_1(x), need_weights=True)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), weights


class OwnAttention(nn.Module):
    """An attention with one more argument that is added to its scores (HPT, R-AMT)."""

    def __init__(self, stock):
        super().__init__()
        self.in_proj_weight, self.in_proj_bias, self.out_proj = stock.in_proj_weight, stock.in_proj_bias, stock.out_proj
        self.num_heads = stock.num_heads

    def forward(self, query, key, value, extra=None, need_weights=False, attn_mask=None):
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        parts = [F.linear(x, *both) for x, *both in zip((query, key, value), weights, biases, strict=True)]
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3) for x in parts)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        scores = scores + (0 if attn_mask is None else attn_mask) + (0 if extra is None else extra[:, None])
        return self.out_proj((scores.softmax(dim=-1) @ v).permute(2, 0, 1, 3).flatten(2)), None


class Extra(Block):
    """Calls its own attention with a second mask for each sequence."""

    def __init__(self, stock, i):
        super().__init__(stock, i)
        self.attn = OwnAttention(stock.attn)

    def forward(self, x):
        normed = self.ln_1(x)
        extra = randn(6, "extra", (x.shape[1], len(x), len(x)), 0.3).to(x.device)
        mask = None if self.attn_mask is None else self.attn_mask.to(x.device)
        x = x + self.attn(normed, normed, normed, extra, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Inserting(Block):
    """Inserts two learned tokens after the first one at block 1, and makes its mask again (MMRL)."""

    def __init__(self, stock, i):
        super().__init__(stock, i)
        if i == 1:
            self.inserted = nn.Parameter(randn(7, "inserted", (2, 1, stock.ln_1.weight.shape[0]), 0.3))

    def forward(self, x):
        if self.i == 1:
            x = torch.cat([x[:1], self.inserted.expand(-1, x.shape[1], -1), x[1:]])
        if self.i and self.attn_mask is not None:
            self.attn_mask = torch.full((len(x), len(x)), float("-inf")).triu(1)
        x = x + self.attention(self.ln_1(x))[0]
        return x + self.mlp(self.ln_2(x))


class InsertingHost(with_blocks(Inserting)):
    """Reads EOT where it is after two more tokens."""

    def features(self, images):
        return self.image_encoder(images), self.text_encoder(self.prompts(), self.tokenized_prompts.roll(2, dims=1))


class Adapted(Block):
    """Has an adapter parallel to its MLP (MMA)."""

    alike, start = True, 0.3

    def __init__(self, stock, i):
        super().__init__(stock, i)
        width = stock.ln_1.weight.shape[0]
        self.adapter = nn.Linear(width, width, bias=False)
        self.adapter.weight.data = randn(8, f"adapter.{i}", (width, width), self.start)

    def forward(self, x):
        more = self.adapter(self.ln_1(x))
        x = x + self.attention(self.ln_1(x))[0]
        return x + self.mlp(self.ln_2(x)) + more


class Asleep(Adapted):
    """The adapter starts at zero."""

    start = 0.0


class Mixing(Block):
    """Adds the mean of all tokens."""

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))[0]
        return x + self.mlp(self.ln_2(x)) + x.mean(dim=0)


HOSTS = {
    "family": Host,
    "levels": Levels,
    "whole CLIP in the text encoder": WholeCLIP,
    "flat": Flat,
    "attention weights": with_blocks(Reading),
    "own attention": with_blocks(Extra),
    "insertion": InsertingHost,
    "adapter": with_blocks(Adapted),
}
