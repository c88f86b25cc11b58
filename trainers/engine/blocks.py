"""One block of a stock CLIP transformer, taken apart.

`clip.model.ResidualAttentionBlock` computes queries, keys and values for every token, and carries every token on. The
towers need less than that for most tokens (../../README.md, "Why it is fast"), so they call these pieces instead of the
block's `forward`. The weights stay where they are: nothing of the block is copied or replaced.

Shapes: d is the tower's width, H its heads, e = d / H.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import StockModule, linear, mlp

KeysValues = tuple[Tensor, Tensor]  # (..., H, T, e) each


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision, else as it is."""
    return x.float() if x.dtype.itemsize < 4 else x


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., T, d) -> (..., H, T, e)"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def queries_keys_values(block: StockModule, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise `x` (..., T, d) and project it: three tensors (..., H, T, e)."""
    attn = block.attn
    projected = linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = projected.chunk(3, dim=-1)
    return split_heads(q, attn.num_heads), split_heads(k, attn.num_heads), split_heads(v, attn.num_heads)


def keys_values(block: StockModule, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a token that nobody reads afterwards has to give: keys and values only, (..., H, T, e) each."""
    attn, width = block.attn, x.shape[-1]
    projected = linear(block.ln_1(x), attn.in_proj_weight[width:], attn.in_proj_bias[width:])
    k, v = projected.chunk(2, dim=-1)
    return split_heads(k, attn.num_heads), split_heads(v, attn.num_heads)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of q (B, H, T, e) over k, v (B, H, U, e); `mask` (T, U) is True where a query sees a key.

    Returns (B, T, d).
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(-3, -2).flatten(-2)


def attend_once(block: StockModule, x: Tensor, sources: list[Tensor], visible: Tensor | None = None) -> Tensor:
    """What one token of each sequence attends to, where no other token of the block asks (as CLS and EOT in the last).

    One query a head reads the sources through the key and value matrices, so these are applied to the query and to
    what was read, instead of to every source token: q (W_k s) is (q W_k) s, and the weighted sum of W_v s is W_v of the
    weighted sum. The keys' bias adds the same to all scores, and so nothing.

    Args:
        x: (..., d), the asking tokens.
        sources: tokens (..., T, d) as they enter the block; leading dimensions of 1 are shared.
        visible: (..., T) of the last source, True where it is seen.

    Returns:
        (..., d)
    """
    attn = block.attn
    w_q, w_k, w_v = attn.in_proj_weight.unflatten(0, (3, attn.num_heads, -1))
    b_q, _, b_v = attn.in_proj_bias.unflatten(0, (3, attn.num_heads, -1))
    sources = [block.ln_1(tokens) for tokens in sources]
    q = torch.einsum("...d,hed->...he", block.ln_1(x), w_q) + b_q
    asked = torch.einsum("...he,hed->...hd", q * q.shape[-1] ** -0.5, w_k)
    scores = [asked @ tokens.transpose(-2, -1) for tokens in sources]
    if visible is not None:
        scores[-1] = scores[-1].masked_fill(~visible.unsqueeze(-2), float("-inf"))
    batch = torch.broadcast_shapes(*(part.shape[:-1] for part in scores))
    weights = torch.cat([part.expand(*batch, -1) for part in scores], dim=-1).softmax(dim=-1).to(asked.dtype)
    parts = weights.split([part.shape[-1] for part in scores], dim=-1)
    read = sum(part @ tokens for part, tokens in zip(parts, sources, strict=True))
    return (torch.einsum("...hd,hed->...he", read, w_v) + b_v).flatten(-2)


def finish(block: StockModule, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of the block for tokens `x` (..., T, d), given what they attended to (same shape)."""
    x = x + linear(attended, block.attn.out_proj.weight, block.attn.out_proj.bias)
    return x + mlp(block.mlp, block.ln_2(x))


def join(parts: list[Tensor], batch: int) -> Tensor:
    """Concatenate (b, ..., T, d) parts along the tokens, b in {1, batch}; a shared part is repeated by view."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], dim=-2)
