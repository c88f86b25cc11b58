"""Transformer blocks with few kernel launches, for GPUs.

Shapes: d is the tower's width, H its number of heads, e = d / H.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import StockModule, linear, mlp
from .prompts import TextStack


class Norm(NamedTuple):
    """The parameters of a LayerNorm, in the dtype of its input."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x (..., d)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def norms_of(blocks: Iterable[StockModule], dtype: torch.dtype) -> list[tuple[Norm, Norm]]:
    """Return both LayerNorms of each block.

    OpenAI's LayerNorm casts its input to float32 and its output back to half precision, which takes four launches per
    block and direction. PyTorch's kernel computes in float32 internally, so only the parameters are cast, all at once.
    """
    layers = [norm for block in blocks for norm in (block.ln_1, block.ln_2)]
    weights = [parameter for norm in layers for parameter in (norm.weight, norm.bias)]
    if any(weight.dtype != dtype for weight in weights):
        weights = list(torch.stack(weights).to(dtype).unbind())
    norms = [Norm(weights[2 * i], weights[2 * i + 1], norm.eps) for i, norm in enumerate(layers)]
    return list(zip(norms[::2], norms[1::2], strict=True))


def cast_stack(stack: TextStack, dtype: torch.dtype) -> list[Any]:
    """Cast the tokens of all layers, in one launch if their shapes are equal."""
    layers = [tokens for tokens in stack if tokens is not None]
    if all(tokens.dtype == dtype for tokens in layers):
        return list(stack)
    if len(layers) < len(stack) or len({tokens.shape for tokens in layers}) > 1:
        return [None if tokens is None else tokens.to(dtype) for tokens in stack]
    return list(torch.stack(layers).to(dtype).unbind())


def project(block: StockModule, norm: Norm, x: Tensor, passing: Sequence[Tensor]) -> Tensor:
    """Compute queries, keys and values of rows and passing tokens.

    Args:
        block: the block.
        norm: its first LayerNorm.
        x: (B, T, d), the rows.
        passing: tokens (B or 1, n, d) that contribute keys and values only.

    Returns:
        (B, T + n, 3 d), n being the number of all passing tokens.
    """
    if passing:
        x = torch.cat([x, *(tokens.expand(x.shape[0], -1, -1) for tokens in passing)], dim=1)  # (B, T + n, d)
    return linear(norm(x), block.attn.in_proj_weight, block.attn.in_proj_bias)


def split_heads(projected: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, U, 3 d) into queries, keys and values, (B, H, U, e) each."""
    q, k, v = projected.unflatten(-1, (3, heads, -1)).unbind(-3)  # (B, U, H, e) each
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute attention of q (B, H, T, e) over k and v (B, H, U, e) with an additive mask; returns (B, T, d)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)


def finish(block: StockModule, norm: Norm, x: Tensor, attended: Tensor) -> Tensor:
    """Apply the output projection, the MLP and both residual connections.

    Args:
        block: the block.
        norm: its second LayerNorm.
        x: (B, T, d), tokens at the block's input.
        attended: (B, T, d), their attention output.

    Returns:
        (B, T, d), tokens at the block's output.
    """
    x = x + linear(attended, block.attn.out_proj.weight, block.attn.out_proj.bias)
    return x + mlp(block.mlp, norm(x))
