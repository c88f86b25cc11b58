"""A device check that needs no GPU: models on `meta`, under a mode that raises where devices mix or the host waits."""

import contextlib
import itertools

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
_COPIES = ("_to_copy", "copy_")
_MAY_MIX = (*_COPIES, "index", "index_put")  # a GPU's tensor may be indexed from the CPU, which copies the index


class DeviceError(AssertionError):
    """An operation that mixes devices, waits for the device, or computes on the CPU."""


class OneDevice(TorchDispatchMode):
    """Raises `DeviceError` at an operation that a GPU would reject or wait for.

    Args:
        strict: also raise at tensors that are made on the CPU and at copies between devices, as within a training step.
    """

    def __init__(self, strict=False):
        super().__init__()
        self.strict, self.count = strict, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        kinds = {value.device.type for value in given if value.dim()}
        if len(kinds) > 1 and (self.strict or name not in _MAY_MIX):
            raise DeviceError(f"{name} mixes {' and '.join(sorted(kinds))}")
        if name == "_local_scalar_dense" and given[0].device == META:
            raise DeviceError("the host waits for a value")
        result = function(*args, **(kwargs or {}))
        self.count += 1
        if self.strict:
            made = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
            if any(value.device != META and value.dim() for value in made):
                raise DeviceError(f"{name} computes on the CPU")
            if name in _COPIES and any(value.device != META and value.dim() for value in given):
                raise DeviceError(f"{name} copies to the device")
        return result


def move(*modules):
    """Move modules to `meta`; return them."""
    for module in modules:
        module.to(META)
        for child in module.modules():
            for name, value in vars(child).items():
                if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                    setattr(child, name, value.to(META))  # a cache that follows the device
    return modules


@contextlib.contextmanager
def checked(strict=False):
    """Check the device of all operations while the block runs."""
    with OneDevice(strict) as mode:
        yield mode


def parameters_of(trainer):
    """Return what a trainer learns."""
    return list(itertools.chain.from_iterable(model.parameters() for model in trainer._models.values()))
