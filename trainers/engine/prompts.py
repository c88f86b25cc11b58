"""A prompt group: two stacks of learned tokens, one for each tower of CLIP."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Stack = Sequence[Tensor]  # one group's tokens for one tower: a tensor (..., n, d) for each of its layers


class PromptGroup(nn.Module):
    """Tokens for the text tower and tokens for the vision tower, some for each of the first `depth` blocks.

    CasPL (arXiv 2409.17805, section 3) has two such groups: the *boosting* prompts are one of these, the *adapting*
    prompts are whatever the host method learns. A stack of depth 0 is no prompt at all.

    Args:
        text: (depth_t, n_t, d_t), layer 0 enters with the class name, layer i replaces it at the input of block i.
        vision: (depth_v, n_v, d_v), likewise after the patches.

    Raises:
        ValueError: a stack does not have three dimensions.
    """

    def __init__(self, text: Tensor, vision: Tensor):
        super().__init__()
        for name, stack in (("text", text), ("vision", vision)):
            if stack.dim() != 3:
                raise ValueError(
                    f"the {name} stack of a prompt group has shape {tuple(stack.shape)}, expected three dimensions "
                    "(depth, tokens, width): stack the layers along a new first dimension"
                )
        self.text = nn.Parameter(text)
        self.vision = nn.Parameter(vision)

    @classmethod
    def random(cls, text: tuple[int, int, int], vision: tuple[int, int, int], std: float = 0.02) -> "PromptGroup":
        """Draw both stacks from N(0, std); `text` and `vision` are their shapes (depth, tokens, width)."""
        return cls(torch.randn(text) * std, torch.randn(vision) * std)

    def freeze(self) -> "PromptGroup":
        """Stop learning, for good: `train()` does not wake a frozen group."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "PromptGroup":
        """As `nn.Module.train`; a frozen group stays in eval mode."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def extra_repr(self) -> str:
        """The shapes, for `print(model)`."""
        return f"text={tuple(self.text.shape)}, vision={tuple(self.vision.shape)}"


def check_stacks(stacks: Sequence[Stack], layers: int, width: int, tower: str) -> None:
    """Refuse tokens that do not fit a tower of `layers` blocks and `width` channels.

    Raises:
        ValueError: a stack is deeper than the tower, or of another width.
    """
    for number, stack in enumerate(stacks):
        if len(stack) > layers:
            raise ValueError(
                f"prompt group {number} has {len(stack)} {tower} layers, but the {tower} tower has {layers} blocks: "
                f"lower its prompt depth to at most {layers}"
            )
        for layer, tokens in enumerate(stack):
            if tokens.shape[-1] != width:
                raise ValueError(
                    f"prompt group {number}, {tower} layer {layer}: tokens of width {tokens.shape[-1]}, but the "
                    f"{tower} tower is {width} wide: use prompts made for this backbone"
                )
