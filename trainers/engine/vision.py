"""The vision tower: a stock CLIP ViT with prompt groups after the patches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import KeysValues, StockModule, attend, attend_once, finish, join, keys_values, queries_keys_values
from .prompts import Stack, check_stacks

AT_A_TIME_ON_CPU = 8  # images whose hidden units fit into a processor's cache; a sixth faster than 100 (ViT-B/16)


def is_transformer(visual: StockModule) -> bool:
    """Check whether an image encoder is a ViT; CLIP's ResNets have no tokens for prompts."""
    return hasattr(visual, "transformer")


def encode_image(visual: StockModule, images: Tensor, stacks: Sequence[Stack] = ()) -> Tensor:
    """Encode images with a stock CLIP image encoder and prompt groups.

    Tokens of layer 0 are appended after the positional embedding and before `ln_pre`. At the input of block i, 0 < i <
    depth, the tokens of a group are replaced by its layer i. From block `depth` on they are carried like any other token
    (deep visual prompting as in IVLP and MaPLe, github.com/muzairkhattak/multimodal-prompt-learning).

    Args:
        visual: `clip.model.VisionTransformer`, or a ResNet without prompts.
        images: (B, 3, R, R).
        stacks: the layers of each group, (n, d) each.

    Returns:
        (B, E), not normalised.

    Raises:
        ValueError: there are prompts for a ResNet, or a stack is deeper or wider than the tower.
    """
    stacks = [stack for stack in stacks if len(stack)]
    if not is_transformer(visual):
        if stacks:
            raise ValueError(
                f"vision prompts: the image encoder is a {type(visual).__name__}; expected a ViT, which has tokens. Use a "
                "ViT, or a vision depth of 0"
            )
        return visual(images.to(visual.conv1.weight.dtype))
    blocks = visual.transformer.resblocks
    check_stacks(stacks, len(blocks), visual.class_embedding.shape[0], "vision")
    prompts = [_at_block(visual, stacks, i) for i in range(len(blocks))]
    offers = [_offer(block, passing) for block, (passing, _) in zip(blocks[:-1], prompts[:-1], strict=True)]
    parts = images.split(AT_A_TIME_ON_CPU) if images.device.type == "cpu" else [images]
    x = torch.cat([_run(blocks, _embed(visual, part), prompts, offers) for part in parts])
    return visual.ln_post(x) @ visual.proj.to(x.dtype)


def _at_block(visual: StockModule, stacks: list[Stack], layer: int) -> tuple[list[Tensor], list[Tensor]]:
    """Split the groups' tokens at the input of a block into those that pass and those that enter, (1, n, d) each.

    Passing tokens contribute keys and values to this block only, because the next block replaces them or there is no
    next block. Entering tokens are carried from this block on.
    """
    passing: list[Tensor] = []
    entering: list[Tensor] = []
    for stack in stacks:
        if layer < len(stack):
            tokens = stack[layer].to(visual.conv1.weight.dtype)[None]
            carried = layer + 1 == len(stack) < len(visual.transformer.resblocks)
            (entering if carried else passing).append(visual.ln_pre(tokens) if layer == 0 else tokens)
    return passing, entering


def _offer(block: StockModule, passing: list[Tensor]) -> list[KeysValues]:
    """Compute keys and values of the passing tokens, which are the same for all images."""
    return [keys_values(block, torch.cat(passing, dim=1))] if passing else []


def _embed(visual: StockModule, images: Tensor) -> Tensor:
    """Embed images (B, 3, R, R) as CLS and patches (B, 1 + N, d), normalised by `ln_pre`."""
    patches = visual.conv1(images.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # (B, N, d)
    cls = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)  # (B, 1, d)
    x = torch.cat([cls, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
    return visual.ln_pre(x)


def _run(
    blocks: nn.Sequential,
    x: Tensor,
    prompts: list[tuple[list[Tensor], list[Tensor]]],
    offers: list[list[KeysValues]],
) -> Tensor:
    """Run `x` (B, T, d) and the groups' tokens through the blocks; returns the CLS token after the last one, (B, d).

    Attention does not depend on the order of keys, so tokens can be appended in any order. In the last block all tokens
    but CLS contribute keys and values only.
    """
    *most, block = blocks
    for other, (_, entering), offer in zip(most, prompts[:-1], offers, strict=True):
        x = join([x, *(tokens.to(x.dtype) for tokens in entering)], len(x))  # (B, T, d), T grows
        q, *own = queries_keys_values(other, x)  # (B, H, T, e) each
        k, v = (join(list(parts), len(x)) for parts in zip(own, *offer, strict=True))  # (B, H, U, e) each
        x = finish(other, x, attend(q, k, v))
    cls = x[:, 0]  # (B, d)
    passing = [tokens.to(x.dtype) for tokens in prompts[-1][0]]
    return finish(block, cls, attend_once(block, cls, [*passing, x]))
