"""The PyTorch that some commands need: newer than what training, evaluation and the plug-in need.

Each version is the oldest that was tried and worked; 2.3.1, 2.6.0, 2.9.1, 2.11.0 and 2.13.0 were tried.
"""

import torch
from torch.torch_version import TorchVersion

from .config.errors import ConfigError

COST = (2, 6)
EXPORT = (2, 9)
COMPILE = (2, 11)


def has_pytorch(needed: tuple[int, int]) -> bool:
    """Check whether PyTorch has at least a version."""
    return TorchVersion(torch.__version__) >= TorchVersion(f"{needed[0]}.{needed[1]}")


def check_pytorch(name: str, needed: tuple[int, int]) -> None:
    """Check that PyTorch is new enough for a command or a key.

    Args:
        name: of the command or the key.
        needed: the version, such as (2, 6).

    Raises:
        ConfigError: PyTorch is older.
    """
    if not has_pytorch(needed):
        raise ConfigError(
            f"{name}: PyTorch {torch.__version__}; expected {needed[0]}.{needed[1]} or newer. Use an environment with a "
            "newer PyTorch for it: training, evaluation and the plug-in work with this one, on the same files"
        )
