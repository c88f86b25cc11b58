"""The vision tower: a stock CLIP ViT with groups of prompt tokens after the patches."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import KeysValues, StockModule, attend, attend_once, finish, join, keys_values, queries_keys_values
from .prompts import Stack, check_stacks

AT_A_TIME_ON_CPU = 8  # images whose hidden units stay in a processor's cache: a sixth faster than a hundred (ViT-B/16)


def is_transformer(visual: StockModule) -> bool:
    """Whether an image encoder has a ViT's tokens (CLIP's ResNets have none)."""
    return hasattr(visual, "transformer")


def encode_image(visual: StockModule, images: Tensor, stacks: Sequence[Stack] = ()) -> Tensor:
    """Image features of a stock CLIP image encoder with prompt groups.

    Tokens of layer 0 join after the positional embedding and before `ln_pre`; at the input of block i, 0 < i < depth,
    a group's tokens are replaced by its layer i; from block `depth` on they are carried like any other token (deep
    visual prompting as in IVLP and MaPLe, github.com/muzairkhattak/multimodal-prompt-learning).

    Args:
        visual: `clip.model.VisionTransformer`, or a ResNet if there are no prompts.
        images: (B, 3, R, R).
        stacks: for each group, its layers (n, d).

    Returns:
        (B, E), not normalised.

    Raises:
        ValueError: prompts for a ResNet, or prompts that do not fit (see `check_stacks`).
    """
    stacks = [stack for stack in stacks if len(stack)]
    if not is_transformer(visual):
        if stacks:
            raise ValueError(
                f"a {type(visual).__name__} backbone has no vision tokens, so vision prompts cannot be given to it: "
                "use a ViT backbone, or a vision depth of 0"
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
    """The groups' tokens (1, n, d) at the input of a block: those needed as keys and values only, and those to be carried.

    Tokens that the next block replaces are not carried, nor are any behind the last block.
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
    """Keys and values of tokens that are not carried: the same for all images."""
    return [keys_values(block, torch.cat(passing, dim=1))] if passing else []


def _embed(visual: StockModule, images: Tensor) -> Tensor:
    """CLS and patches (B, 1 + N, d), behind `ln_pre`."""
    patches = visual.conv1(images.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)
    cls = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    x = torch.cat([cls, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
    return visual.ln_pre(x)


def _run(
    blocks: nn.Sequential,
    x: Tensor,
    prompts: list[tuple[list[Tensor], list[Tensor]]],
    offers: list[list[KeysValues]],
) -> Tensor:
    """Send `x` (B, T, d) and the groups' tokens through the blocks; returns the CLS token behind the last, (B, d).

    Attention sees a set, so a group's tokens may stand anywhere. At the last block all but CLS give keys and values only.
    """
    *most, block = blocks
    for other, (_, entering), offer in zip(most, prompts[:-1], offers, strict=True):
        x = join([x, *(tokens.to(x.dtype) for tokens in entering)], len(x))
        q, *own = queries_keys_values(other, x)
        k, v = (join(list(parts), len(x)) for parts in zip(own, *offer, strict=True))
        x = finish(other, x, attend(q, k, v))
    cls = x[:, 0]
    passing = [tokens.to(x.dtype) for tokens in prompts[-1][0]]
    return finish(block, cls, attend_once(block, cls, [*passing, x]))
