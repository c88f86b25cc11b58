"""Transformer blocks with few kernel launches, for GPUs.

Shapes: d is the tower's width, H its number of heads, e = d / H.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import StockModule, activation_of, linear, mlp_by_blas
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


class Block(NamedTuple):
    """A transformer block's parameters as plain tensors.

    One compiled function can then compute all blocks.

    Attributes:
        norm_1, norm_2: its LayerNorms.
        into, into_bias: the projection to queries, keys and values.
        out, out_bias: the output projection.
        mlp: weight and bias of both layers of its MLP.
        activation: of its MLP (see `kernels.activation_of`).
        heads: H.
    """

    norm_1: Norm
    norm_2: Norm
    into: Tensor
    into_bias: Tensor
    out: Tensor
    out_bias: Tensor
    mlp: tuple[Tensor, Tensor, Tensor, Tensor]
    activation: str
    heads: int


def blocks_of(modules: Iterable[StockModule], dtype: torch.dtype) -> list[Block]:
    """Return the parameters of a tower's blocks, LayerNorms in the dtype of their input."""
    modules = list(modules)
    return [
        Block(
            *norms,
            *(module.attn.in_proj_weight, module.attn.in_proj_bias),
            *(module.attn.out_proj.weight, module.attn.out_proj.bias),
            mlp=(module.mlp.c_fc.weight, module.mlp.c_fc.bias, module.mlp.c_proj.weight, module.mlp.c_proj.bias),
            activation=activation_of(module.mlp),
            heads=module.attn.num_heads,
        )
        for module, norms in zip(modules, norms_of(modules, dtype), strict=True)
    ]


def project(block: Block, x: Tensor, passing: Sequence[Tensor]) -> Tensor:
    """Compute queries, keys and values of rows and passing tokens.

    Args:
        block: the block.
        x: (B, T, d), the rows.
        passing: tokens (B or 1, n, d) that contribute keys and values only.

    Returns:
        (B, T + n, 3 d), n being the number of all passing tokens.
    """
    return linear(block.norm_1(_with_passing(x, passing)), block.into, block.into_bias)


def _with_passing(x: Tensor, passing: Sequence[Tensor]) -> Tensor:
    return torch.cat([x, *(tokens.expand(x.shape[0], -1, -1) for tokens in passing)], dim=1) if passing else x


def queries(block: Block, x: Tensor) -> Tensor:
    """Compute the queries of x (B, T, d); returns (B, H, T, e)."""
    width = x.shape[-1]
    q = linear(block.norm_1(x), block.into[:width], block.into_bias[:width])
    return q.unflatten(-1, (block.heads, -1)).transpose(1, 2)


def keys_values(block: Block, x: Tensor, passing: Sequence[Tensor]) -> Tensor:
    """Compute keys and values of rows x (B, T, d) and passing tokens (see `project`).

    Returns (B, T + n, 2 d).
    """
    width = x.shape[-1]
    return linear(block.norm_1(_with_passing(x, passing)), block.into[width:], block.into_bias[width:])


def split_heads(projected: Tensor, parts: int, heads: int) -> list[Tensor]:
    """Split (B, U, parts * d), such as queries, keys and values, into parts of (B, H, U, e)."""
    split = projected.unflatten(-1, (parts, heads, -1)).unbind(-3)  # (B, U, H, e) each
    return [part.transpose(1, 2) for part in split]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute attention of q (B, H, T, e) over k and v (B, H, U, e).

    The mask is additive; returns (B, T, d).
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2)


def finish(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    """Apply the output projection, the MLP and both residual connections.

    Args:
        block: the block.
        x: (B, T, d), tokens at the block's input.
        attended: (B, T, d), their attention output.

    Returns:
        (B, T, d), tokens at the block's output.
    """
    x = x + linear(attended, block.out, block.out_bias)
    return x + mlp_by_blas(block.norm_2(x), *block.mlp, block.activation)


def inner_block(block: Block, x: Tensor, passing: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """Compute a whole block of x (B, T, d).

    Passing tokens (B or 1, n, d) contribute keys and values only.

    Args:
        block: the block.
        x: the rows.
        passing: tokens that the next block replaces.
        mask: additive, of T queries and T + n keys; None: every query sees every key.

    Returns:
        (B, T, d)
    """
    q, k, v = split_heads(project(block, x, passing), 3, block.heads)  # (B, H, T + n, e) each
    return finish(block, x, attend(q[:, :, : x.shape[1]], k, v, mask))


_compiled: Callable[..., Tensor] | None = None


def compile_inner_blocks(backend: str | None = "inductor") -> None:
    """Compute inner blocks by one compiled function.

    All blocks of a tower share it; None: eagerly.

    The first and the last block of a tower run eagerly: their inputs need no gradient, or few of their rows are read.
    """
    global _compiled
    if backend is not None:
        torch._dynamo.reset()  # Dynamo compiles a function for a few shapes only, those of earlier models included
    _compiled = None if backend is None else torch.compile(inner_block, dynamic=False, backend=backend)


def run_inner_block(block: Block, x: Tensor, passing: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
    """Compute `inner_block`, compiled if `compile_inner_blocks` was called and x needs a gradient."""
    if _compiled is None or not (x.requires_grad and torch.is_grad_enabled()):
        return inner_block(block, x, passing, mask)
    return _compiled(block, x, passing, mask)
