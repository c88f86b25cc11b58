"""Count the operations and the peak memory of a piece of work; on the device `meta` without computing it."""

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Work = Callable[[], object]
_ATEN = torch.ops.aten


def _of_attention(q, k, v, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(q, k, v)


def _of_attention_backward(grad, q, k, v, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


def _of_linear(x, weight, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(x) * weight[0]


# PyTorch's counter lacks the CPU's attention kernels and the compiler's linear kernels, which builds without oneDNN lack.
_ON_CPU: dict[Any, Callable[..., int]] = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _of_attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _of_attention_backward,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _ON_CPU[torch.ops.mkldnn._linear_pointwise] = _of_linear


def operations(work: Work) -> int:
    """Count the floating-point operations of matrix products, convolutions and attention in `work`.

    The counter keeps tensors alive, so operations and memory cannot be measured in one call.
    """
    with FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter, _FusedAttention():
        work()
    return counter.get_total_flops()


def peak_meta_bytes(work: Work) -> int:
    """Return the peak memory in bytes of the tensors that `work` creates on the device `meta`."""
    with _LiveStorages() as live, _FusedAttention():
        work()
    return live.most


class _FusedAttention(TorchFunctionMode):
    """Gives `meta` tensors the fused attention of a GPU, which keeps no attention weights."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not F.scaled_dot_product_attention or args[0].device.type != "meta":
            return function(*args, **kwargs)
        q, k, v = args[:3]
        mask = kwargs.get("attn_mask")
        if mask is not None:
            mask = mask.expand(*q.shape[:-1], k.shape[-2])
        return _ATEN._scaled_dot_product_efficient_attention(q, k, v, mask, True)[0]


class _LiveStorages(TorchDispatchMode):
    """Adds up the memory of the storages that live at the same time.

    Attributes:
        most: the peak in bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {tensor.untyped_storage()._cdata for tensor in _meta_tensors((args, kwargs))}
        made = function(*args, **(kwargs or {}))
        for tensor in _meta_tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in given | self._known:
                self._add(storage)
        return made

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.taken += size
        self.most = max(self.most, self.taken)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.taken -= size


def _meta_tensors(tree: object) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.device.type == "meta")
