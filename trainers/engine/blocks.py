"""The pieces of a stock CLIP transformer block.

`clip.model.ResidualAttentionBlock` computes queries, keys and values for every token and passes every token through
the MLP. Most tokens need less, so both towers call these pieces instead of the block's `forward`. The weights remain in
the stock modules; nothing is copied or replaced.

Shapes: d is the tower's width, H its number of heads, e = d / H.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import StockModule, linear, mlp

KeysValues = tuple[Tensor, Tensor]  # (..., H, T, e) each


def at_least_float32(x: Tensor) -> Tensor:
    """Cast half precision to float32; return any other tensor unchanged."""
    return x.float() if x.dtype.itemsize < 4 else x


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (..., T, d) to (..., H, T, e)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def queries_keys_values(block: StockModule, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise `x` (..., T, d) and project it to queries, keys and values, (..., H, T, e) each."""
    attn = block.attn
    projected = linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)  # (..., T, 3 d)
    q, k, v = projected.chunk(3, dim=-1)  # (..., T, d) each
    return split_heads(q, attn.num_heads), split_heads(k, attn.num_heads), split_heads(v, attn.num_heads)


def keys_values(block: StockModule, x: Tensor) -> tuple[Tensor, Tensor]:
    """Project tokens (..., T, d) to keys and values only, (..., H, T, e) each.

    They are not read after this block.
    """
    attn, width = block.attn, x.shape[-1]
    projected = linear(block.ln_1(x), attn.in_proj_weight[width:], attn.in_proj_bias[width:])  # (..., T, 2 d)
    k, v = projected.chunk(2, dim=-1)  # (..., T, d) each
    return split_heads(k, attn.num_heads), split_heads(v, attn.num_heads)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute attention of q (B, H, T, e) over k and v (B, H, U, e).

    Args:
        q, k, v: queries, keys and values.
        mask: (T, U), True where a query sees a key. None: every query sees every key.

    Returns:
        (B, T, d)
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(-3, -2).flatten(-2)


def attend_once(block: StockModule, x: Tensor, sources: list[Tensor], visible: Tensor | None = None) -> Tensor:
    """Compute attention of a single query per sequence: CLS or EOT in the last block.

    With one query per head it is cheaper to apply the key and value matrices to the query and to the weighted sum than
    to every source token: q (W_k s) = (q W_k) s, and the weighted sum of W_v s is W_v times the weighted sum. The bias
    of the keys adds the same value to all scores of a query, so it cancels in the softmax.

    Args:
        block: the last block.
        x: (..., d), the querying tokens.
        sources: tokens (..., T, d) at the block's input; leading dimensions of 1 are shared, but not those of the last one.
        visible: (..., T) for the last source, True where a token is seen.

    Returns:
        (..., d)
    """
    attn = block.attn
    w_q, w_k, w_v = attn.in_proj_weight.unflatten(0, (3, attn.num_heads, -1))  # (H, e, d) each
    b_q, _, b_v = attn.in_proj_bias.unflatten(0, (3, attn.num_heads, -1))  # (H, e) each
    sources = [block.ln_1(tokens) for tokens in sources]
    q = torch.einsum("...d,hed->...he", block.ln_1(x), w_q) + b_q  # (..., H, e)
    q = torch.einsum("...he,hed->...hd", q * q.shape[-1] ** -0.5, w_k)  # (..., H, d)
    scores = [q @ tokens.transpose(-2, -1) for tokens in sources]  # (..., H, T) each
    if visible is not None:
        scores[-1] = scores[-1].masked_fill(~visible.unsqueeze(-2), float("-inf"))
    batch = scores[-1].shape[:-1]
    weights = torch.cat([part.expand(*batch, -1) for part in scores], dim=-1).softmax(dim=-1).to(q.dtype)
    parts = weights.split([part.shape[-1] for part in scores], dim=-1)  # (..., H, T) each
    mean = sum(part @ tokens for part, tokens in zip(parts, sources, strict=True))  # (..., H, d)
    return (torch.einsum("...hd,hed->...he", mean, w_v) + b_v).flatten(-2)


def finish(block: StockModule, x: Tensor, attended: Tensor) -> Tensor:
    """Apply the output projection, the MLP and both residual connections.

    Args:
        block: the block.
        x: (..., T, d), tokens at the block's input.
        attended: (..., T, d), their attention output.

    Returns:
        (..., T, d), tokens at the block's output.
    """
    x = x + linear(attended, block.attn.out_proj.weight, block.attn.out_proj.bias)
    return x + mlp(block.mlp, block.ln_2(x))


def join(parts: list[Tensor], batch: int) -> Tensor:
    """Concatenate (b, ..., T, d) parts along the tokens.

    Parts with b = 1 are expanded to `batch`.
    """
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], dim=-2)
