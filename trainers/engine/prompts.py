"""Prompt groups: learned tokens for the text tower and the vision tower of CLIP."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Stack = Sequence[Tensor]  # tokens of one group for one tower: one tensor (..., n, d) per layer
TextStack = Sequence[Tensor | None]  # likewise; None: the tokens are carried through this layer


class PromptGroup(nn.Module):
    """Two stacks of tokens, one for the first blocks of each tower.

    CasPL (arXiv 2409.17805, section 3) combines two groups: the *boosting* prompt is a `PromptGroup`, the *adapting*
    prompts are the host method's. A stack of depth 0 is an empty prompt.

    Args:
        text: (depth_t, n_t, d_t). Layer 0 is inserted before the class name; layer i replaces it at the input of block i.
        vision: (depth_v, n_v, d_v). Layer 0 is appended to the patches; layer i replaces it at the input of block i.

    Raises:
        ValueError: a stack does not have three dimensions.
    """

    def __init__(self, text: Tensor, vision: Tensor):
        super().__init__()
        for name, stack in (("text", text), ("vision", vision)):
            if stack.dim() != 3:
                raise ValueError(
                    f"prompt group: {name} stack of shape {tuple(stack.shape)}; expected three dimensions "
                    "(depth, tokens, width). Stack the layers along a new first dimension"
                )
        self.text = nn.Parameter(text)
        self.vision = nn.Parameter(vision)

    @classmethod
    def random(cls, text: tuple[int, int, int], vision: tuple[int, int, int], std: float = 0.02) -> "PromptGroup":
        """Draw both stacks from N(0, std²).

        `text` and `vision` are their shapes (depth, tokens, width).
        """
        return cls(torch.randn(text) * std, torch.randn(vision) * std)

    def freeze(self) -> "PromptGroup":
        """Disable gradients and switch to eval mode permanently; return the group."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "PromptGroup":
        """Set the training mode, except that a frozen group stays in eval mode."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def extra_repr(self) -> str:
        """Return the shapes of both stacks for `repr`."""
        return f"text={tuple(self.text.shape)}, vision={tuple(self.vision.shape)}"


def check_stacks(stacks: Sequence[TextStack], layers: int, width: int, tower: str) -> None:
    """Check that prompt tokens fit a tower.

    Args:
        stacks: the tokens of each group.
        layers: number of blocks of the tower.
        width: d, the tower's width.
        tower: the tower's name, for error messages.

    Raises:
        ValueError: a stack has more layers than the tower has blocks, or tokens of another width.
    """
    for number, stack in enumerate(stacks):
        if len(stack) > layers:
            raise ValueError(
                f"prompt group {number}: {len(stack)} {tower} layers; expected at most {layers}, the {tower} tower's "
                "blocks. Reduce its prompt depth"
            )
        for layer, tokens in enumerate(stack):
            if tokens is not None and tokens.shape[-1] != width:
                raise ValueError(
                    f"prompt group {number}, {tower} layer {layer}: tokens of width {tokens.shape[-1]}; expected {width}, "
                    f"the {tower} tower's width. Use prompts trained for this backbone"
                )
