"""Small versions of the toolboxes' own models, one for each way in which their blocks behave; written for these tests.

`Fork` wraps one of our hosts: it computes with the same CLIP and the same learner, but in the manner of the CoOp
family, all 77 places of every text, one block after the other, prompts replaced inside the blocks or passed along in a
list.
"""

import copy
from functools import partial
from operator import getitem

import torch
from torch import nn
from torch.nn import functional as F

from trainers.backbones import tokenizer
from trainers.engine.tokens import EOT, SOS

KINDS = {"CoOp": "stock", "CoCoOp": "stock", "MaPLe": "listing", "PromptSRC": "replacing"}


class ReplacingBlock(nn.Module):
    """Puts its own prompt in place of the last block's, as PromptSRC's do: after SOS (text) or at the end (vision)."""

    def __init__(self, stock, text, prompt=None):
        super().__init__()
        self.attn, self.ln_1, self.mlp, self.ln_2 = stock.attn, stock.ln_1, stock.mlp, stock.ln_2
        self.attn_mask = stock.attn_mask
        self.text, self.prompt = text, prompt

    def replace(self, x, prompt):
        prompt = prompt[:, None].expand(-1, x.shape[1], -1).to(x.dtype)
        n = len(prompt)
        return torch.cat([x[:1], prompt, x[1 + n :]] if self.text else [x[: len(x) - n], prompt])

    def compute(self, x):
        mask = None if self.attn_mask is None else self.attn_mask.to(x)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))

    def forward(self, x):
        return self.compute(x if self.prompt is None else self.replace(x, self.prompt()))


class ListingBlock(ReplacingBlock):
    """Takes and gives [x, the prompts of all deeper blocks, how many are used up], as MaPLe's do."""

    def __init__(self, stock, text, first):
        super().__init__(stock, text)
        self.first = first

    def forward(self, inputs):
        x, deeper, used = inputs
        if not self.first and used < len(deeper):
            x, used = self.replace(x, deeper[used]), used + 1
        return [self.compute(x), deeper, used]


class Blocks(nn.Module):
    """The transformer around the blocks."""

    def __init__(self, blocks):
        super().__init__()
        self.resblocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.resblocks(x)


class ImageEncoder(nn.Module):
    """A ViT that takes a prompt at the end of its first sequence."""

    def __init__(self, stock, blocks, prompt=None):
        super().__init__()
        self.conv1, self.ln_pre, self.ln_post = stock.conv1, stock.ln_pre, stock.ln_post
        self.class_embedding, self.positional_embedding = stock.class_embedding, stock.positional_embedding
        self.proj, self.prompt = stock.proj, prompt
        self.transformer = Blocks(blocks)

    def forward(self, image, prompt=None, deeper=None):
        x = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        prompt = self.prompt() if prompt is None else prompt
        x = self.ln_pre(torch.cat([x, prompt.expand(len(x), -1, -1).to(x.dtype)], dim=1)).transpose(0, 1)
        x = self.transformer(x if deeper is None else [x, deeper, 0])
        return self.ln_post((x if deeper is None else x[0])[0]) @ self.proj


class TextEncoder(nn.Module):
    """CLIP's text tower after the token embedding."""

    def __init__(self, clip_model, transformer):
        super().__init__()
        self.transformer, self.ln_final = transformer, clip_model.ln_final
        self.positional_embedding, self.text_projection = clip_model.positional_embedding, clip_model.text_projection

    def forward(self, prompts, tokenized_prompts, deeper=None):
        x = (prompts + self.positional_embedding.to(prompts.dtype)).transpose(0, 1)
        x = self.transformer(x if deeper is None else [x, deeper, 0])
        x = self.ln_final((x if deeper is None else x[0]).transpose(0, 1))
        return x[torch.arange(len(x)), tokenized_prompts.argmax(dim=-1)].to(prompts.dtype) @ self.text_projection


class PromptLearner(nn.Module):
    """The texts around a learner's context, and the figures that the family keeps about them."""

    def __init__(self, learner, clip_model, names, n_ctx, words, position):
        super().__init__()
        self.learner, self.n_ctx, self.class_token_position = learner, n_ctx, position
        encode = tokenizer().encode
        names = [name.replace("_", " ") for name in names]
        self.name_lens = [len(encode(name)) for name in names]
        rows = [[SOS, *encode(f"{words or ' '.join(['X'] * n_ctx)} {name}."), EOT] for name in names]
        self.tokenized_prompts = torch.tensor([row + [0] * (77 - len(row)) for row in rows])
        embedded = clip_model.token_embedding(self.tokenized_prompts).detach().to(clip_model.text_projection.dtype)
        self.register_buffer("token_prefix", embedded[:, :1])
        self.register_buffer("token_suffix", embedded[:, 1 + n_ctx :])

    def forward(self, context):
        """(C, 77, d) with a context (n, d) or (C, n, d)."""
        context = context.expand(len(self.name_lens), -1, -1).to(self.token_suffix.dtype)
        cut = {"end": 0, "front": 0, "middle": self.n_ctx // 2}[self.class_token_position]
        rows = []
        for prefix, row, suffix, length in zip(
            self.token_prefix, context, self.token_suffix, self.name_lens, strict=True
        ):
            if self.class_token_position == "end":
                rows.append(torch.cat([prefix, row, suffix]))
            else:
                rows.append(torch.cat([prefix, row[:cut], suffix[:length], row[cut:], suffix[length:]]))
        return torch.stack(rows)


class Fork(nn.Module):
    """What a toolbox's `CustomCLIP` is to one of our hosts.

    Args:
        host: the host's name.
        native: our model of it; its CLIP is copied, its learner is shared.
        names, words, position: of its texts; n_ctx: its context tokens.
        cached: whether text features are kept in evaluation.
    """

    def __init__(self, host, native, names, n_ctx, words="", position="end", cached=False):
        super().__init__()
        clip_model, learner = copy.deepcopy(native.clip), native.prompt_learner
        self.kind, self.per_image, self.cached, self.features = KINDS[host], host == "CoCoOp", cached, None
        self.prompt_learner = PromptLearner(learner, clip_model, names, n_ctx, words, position)
        self.tokenized_prompts, self.logit_scale = self.prompt_learner.tokenized_prompts, clip_model.logit_scale
        self.image_encoder, transformer = clip_model.visual, clip_model.transformer
        if self.kind != "stock":
            self.prompt_learner.zero_shot_encoder = copy.deepcopy(clip_model.visual)
            vision, transformer = (
                self.blocks(tower.resblocks, kind)
                for tower, kind in ((clip_model.visual.transformer, "vision"), (transformer, "text"))
            )
            prompt = partial(getitem, learner.vision, 0) if self.kind == "replacing" else None
            self.image_encoder, transformer = ImageEncoder(clip_model.visual, vision, prompt), Blocks(transformer)
        self.text_encoder = TextEncoder(clip_model, transformer)

    def blocks(self, stock, tower):
        """The stock blocks of a tower, made into this kind's."""
        if self.kind == "listing":
            return [ListingBlock(block, tower == "text", i == 0) for i, block in enumerate(stock)]
        prompts = getattr(self.prompt_learner.learner, tower)
        deep = range(1, len(prompts))
        return [
            ReplacingBlock(b, tower == "text", partial(getitem, prompts, i) if i in deep else None)
            for i, b in enumerate(stock)
        ]

    def text_features(self, context):
        """(C, E), normalised."""
        if self.cached and not self.training and self.features is not None:
            return self.features
        deeper = [self.prompt_learner.learner.text_stack()[1:]] if self.kind == "listing" else []
        prompts = self.prompt_learner(context)
        self.features = F.normalize(self.text_encoder(prompts, self.tokenized_prompts, *deeper), dim=-1)
        return self.features

    def forward(self, image):
        """Logits (B, C)."""
        learner = self.prompt_learner.learner
        vision = learner.vision_stack() if self.kind == "listing" else []
        images = F.normalize(self.image_encoder(image, *([vision[0], vision[1:]] if vision else [])), dim=-1)
        if self.per_image:
            contexts = learner.conditioned(images)[0][:, 0]
            classes = torch.stack([self.text_features(context) for context in contexts])
            return self.logit_scale.exp() * torch.einsum("be,bce->bc", images, classes)
        context = learner.text_stack()[0]
        return self.logit_scale.exp() * images @ self.text_features(context if context.dim() == 2 else context[0]).t()
