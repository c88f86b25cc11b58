"""The vision tower: a stock CLIP ViT with prompt groups after the patches."""

from collections.abc import Sequence

from torch import Tensor

from . import vision_cpu, vision_gpu
from .kernels import StockModule
from .paths import minimizes_launches
from .prompts import Stack, check_stacks


def is_transformer(visual: StockModule) -> bool:
    """Check whether an image encoder is a ViT.

    CLIP's ResNets have no tokens for prompts.
    """
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
    check_stacks(stacks, len(visual.transformer.resblocks), visual.class_embedding.shape[0], "vision")
    tower = vision_gpu if minimizes_launches(images.device) else vision_cpu
    x = tower.encode(visual, images, stacks)  # (B, d)
    return visual.ln_post(x) @ visual.proj.to(x.dtype)
