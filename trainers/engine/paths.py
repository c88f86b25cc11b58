"""Choose between the two implementations of the towers.

On a CPU time is proportional to operations, so `text_cpu` and `vision_cpu` compute as few as possible. On a GPU a
training step at small batches is bound by kernel launches, so `text_gpu` and `vision_gpu` compute up to a tenth more
operations with a third of the launches.
"""

import torch


def minimizes_launches(device: torch.device) -> bool:
    """Check whether the GPU implementation runs on this device.

    A CPU runs it while `torch.backends.mkldnn.enabled` is False, so that it can be tested without a GPU.
    """
    return device.type != "cpu" or not torch.backends.mkldnn.enabled


def is_exporting() -> bool:
    """Check whether `torch.export` traces this call.

    The batch size is then a symbol, and kernels must be portable.
    """
    check = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # PyTorch 2.6 and earlier
    return check()
