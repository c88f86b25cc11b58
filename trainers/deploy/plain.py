"""A classifier as a plain module for export: `nn.Linear` weights, constant prompts, folded scale, any batch size."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ConfigError
from ..engine.blocks import StockModule
from ..engine.vision import is_transformer
from .classifier import Classifier


class PlainBlock(nn.Module):
    """One transformer block of CLIP's image encoder with the prompt tokens that enter it.

    Args:
        block: the stock block, d wide with H heads.
        tokens: (n, d), the tokens that replace the last n rows of the sequence at this block; None leaves them.
        joined: how many of these tokens were in the sequence before this block.
    """

    tokens: Tensor | None

    def __init__(self, block: StockModule, tokens: Tensor | None, joined: int):
        super().__init__()
        attn, d = block.attn, block.attn.embed_dim
        self.heads, self.joined = attn.num_heads, joined
        self.ln_1, self.ln_2, self.mlp = _norm(block.ln_1), _norm(block.ln_2), copy.deepcopy(block.mlp)
        weights, biases = attn.in_proj_weight.split(d), attn.in_proj_bias.split(d)
        self.query, self.key, self.value = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out = _linear(attn.out_proj.weight, attn.out_proj.bias)
        self.register_buffer("tokens", None if tokens is None else tokens[None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on `x` (B, T, d)."""
        if self.tokens is not None:
            kept = x[:, : x.shape[1] - self.joined]
            x = torch.cat([kept, self.tokens.expand(x.shape[0], -1, -1)], dim=1)  # (B, T', d)
        y = self.ln_1(x)
        q, k, v = (self._split(part(y)) for part in (self.query, self.key, self.value))  # (B, H, T', e)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, T', d)
        x = x + self.out(attended)
        return x + self.mlp(self.ln_2(x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class PlainClassifier(nn.Module):
    """Image tower, prompts and class matrix of a classifier, in float32.

    Args:
        classifier: a host with constant class features on a ViT.

    Raises:
        ConfigError: the class features depend on the image, or the image encoder is not a ViT.
    """

    def __init__(self, classifier: Classifier):
        super().__init__()
        classifier.check_constant_classes()
        model = classifier.model
        visual = copy.deepcopy(model.clip.visual).float().cpu()
        if not is_transformer(visual):
            raise ConfigError(f"image encoder: {type(visual).__name__}; expected a ViT. Use a ViT backbone to export")
        self.conv1, self.ln_pre, self.ln_post = visual.conv1, _norm(visual.ln_pre), _norm(visual.ln_post)
        self.cls = nn.Parameter(visual.class_embedding[None, None].clone())  # (1, 1, d)
        self.position = nn.Parameter(visual.positional_embedding[None].clone())  # (1, 1 + N, d)
        self.blocks = nn.ModuleList(_blocks(visual, [stack for stack in _stacks(classifier) if len(stack)]))
        self.project = _linear(visual.proj.t(), None)
        self.head = copy.deepcopy(model.image_head()).float().cpu()
        scale = model.clip.logit_scale.exp().float().cpu()
        self.classes = _linear(scale * classifier.encode_text().cpu(), None)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of preprocessed images (B, 3, R, R)."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)  # (B, N, d)
        x = torch.cat([self.cls.expand(images.shape[0], -1, -1), patches], dim=1) + self.position
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        features = F.normalize(self.head(self.project(self.ln_post(x[:, 0]))), dim=-1)  # (B, E)
        return self.classes(features)


def _stacks(classifier: Classifier) -> list[list[Tensor]]:
    """Return the vision tokens of host and boosting prompt by layer, (n, d) each, in float32."""
    with torch.no_grad():
        stacks = classifier.model._stacks(classifier.model.prompt_learner.vision_stack(), "vision")
    return [[tokens.detach().float().cpu() for tokens in stack] for stack in stacks]


def _blocks(visual: StockModule, stacks: list[list[Tensor]]) -> list[PlainBlock]:
    """Give each block the tokens that enter it: those that change, after those that stay, at the sequence's end.

    Groups of different depths would need tokens in the middle of the sequence to be replaced. Attention does not depend on
    the order of the rows, so the deepest group is always last, and a carried group stays before it.
    """
    order = sorted(stacks, key=len)  # the deepest one last
    made = []
    for index, block in enumerate(visual.transformer.resblocks):
        entering = [stack[index] for stack in order if index < len(stack)]
        if index == 0:
            entering = [visual.ln_pre(tokens) for tokens in entering]
        tokens = torch.cat(entering) if entering else None
        made.append(PlainBlock(block, tokens, 0 if index == 0 or tokens is None else len(tokens)))
    return made


def _norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Return a plain LayerNorm: CLIP's own casts its input."""
    plain = nn.LayerNorm(list(norm.normalized_shape), eps=norm.eps)
    plain.load_state_dict({key: value.float() for key, value in norm.state_dict().items()})
    return plain


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    state = {"weight": weight.detach().float()} | ({} if bias is None else {"bias": bias.detach().float()})
    layer.load_state_dict(state)
    return layer
