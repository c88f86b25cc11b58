"""TorchScript archives that tests load without executing them."""

import torch


class Writing(torch.nn.Module):
    """A module that overwrites a file when PyTorch loads its archive."""

    def __init__(self, path: str):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
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
