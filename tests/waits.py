"""Count what makes the host wait for a GPU, on a CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique")


class Waits(TorchDispatchMode):
    """Counts operations and calls for which the host waits on a GPU."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            monkeypatch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))

    def _counting(self, method):
        def counted(tensor, *args, **kwargs):
            self.count += tensor.numel() == 1 or method.__name__ != "numpy"
            return method(tensor, *args, **kwargs)

        counted.__name__ = method.__name__
        return counted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._schema.name.removeprefix("aten::") in WAITING
        return function(*args, **(kwargs or {}))
