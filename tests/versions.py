"""Skips tests that need a newer PyTorch than training, evaluation and the plug-in do."""

import pytest

from trainers import pytorch


def _older(version, reason):
    return pytest.mark.skipif(not pytorch.has_pytorch(version), reason=f"{reason} {version[0]}.{version[1]} or newer")


counts_operations = _older(pytorch.COST, "counting operations on the device meta needs PyTorch")
exports = _older(pytorch.EXPORT, "exporting needs PyTorch")
compiles = _older(pytorch.COMPILE, "compiling needs PyTorch")
counts_launches = _older((2, 13), "the bounds are those of the operators of PyTorch")
simulates_a_gpu = _older((2, 13), "a GPU is simulated with PyTorch")
