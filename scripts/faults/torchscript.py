"""TorchScript archives for the tests and for `scripts/torture.py`: of given tensors, and with code that writes a file."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Archived(nn.Module):
    """A module whose archive has the tensors of a state dict under the same names.

    Args:
        state: {name: tensor}.
    """

    def __init__(self, state: Mapping[str, Tensor]):
        super().__init__()
        for key, value in state.items():
            *path, name = key.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_buffer(name, value)


class Writing(nn.Module):
    """A module that overwrites a file when PyTorch loads its archive.

    Args:
        path: the file.
    """

    def __init__(self, path: str):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.path = path

    @torch.jit.export
    def __getstate__(self):
        return (self.weight, self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        target = torch.from_file(state[1], True, 16, dtype=torch.uint8)
        target.fill_(65)
        self.weight = state[0] + target[0].to(torch.float32) * 0.0  # an unused result would be optimised away
        self.path = state[1]
        self.training = state[2]

    def forward(self, x: torch.Tensor):
        return x
