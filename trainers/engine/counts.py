"""Count the operations and the peak memory of a piece of work; on the device `meta` without computing it."""

import contextlib
import functools
import inspect
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count, shape_wrapper

from . import blocks_gpu

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
_FORMULAS = {**flop_registry, **{function: shape_wrapper(formula) for function, formula in _ON_CPU.items()}}

_RESULT = (
    "out_val" if "out_val" in inspect.signature(shape_wrapper(_of_linear), follow_wrapped=False).parameters else "out"
)


def operations(work: Work) -> int:
    """Count the floating-point operations of matrix products, convolutions and attention in `work`."""
    with _Operations() as counts, _FusedAttention(), _repeated_blocks(counts):
        work()
    return counts.total


def peak_meta_bytes(work: Work) -> int:
    """Return the peak memory in bytes of the tensors that `work` creates on the device `meta`."""
    with _Storages() as counts, _FusedAttention(), _repeated_blocks(counts):
        work()
    return counts.most


@contextlib.contextmanager
def _repeated_blocks(counts: "_Remembering") -> Iterator[None]:
    """Compute one of several inner blocks with the same shapes; the others add what it has added.

    Blocks that keep tensors for a backward pass are all computed.
    """
    compute = blocks_gpu.inner_block
    known: dict[object, tuple[int, tuple]] = {}

    def repeated(block: blocks_gpu.Block, x: Tensor, passing: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "meta":
            return compute(block, x, passing, mask)
        key = _described((block, x, tuple(passing), mask))
        if key in known:
            added, size = known[key]
            counts.add(added)
            return torch.empty_strided(*size, dtype=x.dtype, device=x.device)
        start = counts.start()
        made = compute(block, x, passing, mask)
        known[key] = counts.added(start), (made.shape, made.stride())
        return made

    blocks_gpu.inner_block = repeated
    try:
        yield
    finally:
        blocks_gpu.inner_block = compute


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


class _Remembering(TorchDispatchMode):
    """Makes the results of an operation on `meta` tensors like those of an earlier call with tensors of the same shapes.

    PyTorch finds many shapes in Python, which takes most of the time otherwise.
    """

    def start(self) -> Any:
        """Return the state before a piece of work."""
        raise NotImplementedError

    def added(self, start: Any) -> int:
        """Return what a piece of work has added to a state."""
        raise NotImplementedError

    def add(self, added: int) -> None:
        """Add the same again."""
        raise NotImplementedError

    def _made(self, function: Any, args: tuple, kwargs: dict) -> Any:
        key = (function, _described(args), _described(tuple(kwargs.items()))) if _is_pure(function) else None
        if key in _RESULTS:
            many, sizes = _RESULTS[key]
            made = tuple([size and torch.empty_strided(*size[:2], dtype=size[2], device="meta") for size in sizes])
            return made if many else made[0]
        made = function(*args, **kwargs)
        if key is not None and _is_new(made, (args, kwargs)):
            results: tuple = made if isinstance(made, tuple) else (made,)
            _RESULTS[key] = isinstance(made, tuple), [_size_of(each) for each in results]
        return made


class _Operations(_Remembering):
    """Adds up floating-point operations by PyTorch's formulas; its own counter also tracks modules, which takes longer.

    Attributes:
        total: their number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def start(self) -> int:
        return self.total

    def added(self, start: int) -> int:
        return self.total - start

    def add(self, added: int) -> None:
        self.total += added

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        formula = _FORMULAS.get(function._overloadpacket)
        if formula is None and _is_composite(function):
            with self:
                return function.decompose(*args, **kwargs)
        made = self._made(function, args, kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, **{_RESULT: made})
        return made


class _Storages(_Remembering):
    """Adds up the memory of the storages that live at the same time.

    Attributes:
        most: the peak in bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken = self.most = 0
        self._known: set[int] = set()

    def start(self) -> tuple[int, int]:
        """Return the state before a piece of work, and find the peak of that work from here on."""
        state = self.taken, self.most
        self.most = self.taken
        return state

    def added(self, start: tuple[int, int]) -> int:
        """Return the peak of a piece of work above what lived before."""
        taken, most = start
        above = self.most - taken
        self.most = max(self.most, most)
        return above

    def add(self, added: int) -> None:
        self.most = max(self.most, self.taken + added)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = self._made(function, args, kwargs)
        if not _is_view(function):
            given = {tensor.untyped_storage()._cdata for tensor in _meta_tensors((args, kwargs))}
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


_RESULTS: dict[tuple, tuple[bool, list[tuple | None]]] = {}


@functools.cache
def _is_pure(function: Any) -> bool:
    """Return whether an operation neither changes nor returns its arguments."""
    schema = function._schema
    return not any(each.alias_info for each in (*schema.arguments, *schema.returns))


@functools.cache
def _is_view(function: Any) -> bool:
    """Return whether all results of an operation share the memory of its arguments."""
    returns = function._schema.returns
    return bool(returns) and all(each.alias_info for each in returns)


@functools.cache
def _is_composite(function: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


def _size_of(tensor: Tensor | None) -> tuple | None:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)


def _described(value: Any) -> object:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device.type
    if isinstance(value, (tuple, list)):
        return tuple([_described(each) for each in value])
    return type(value), value


def _is_new(made: object, given: object) -> bool:
    """Return whether results are whole tensors on `meta` that share memory neither with each other nor with arguments."""
    results = made if isinstance(made, tuple) else (made,)
    results = tuple(each for each in results if each is not None)
    if not results or not all(isinstance(each, Tensor) and each.device.type == "meta" for each in results):
        return False
    taken = {tensor.untyped_storage()._cdata for tensor in _meta_tensors(given)}
    for each in results:
        like = torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device="meta")
        storage = each.untyped_storage()
        if storage._cdata in taken or storage.nbytes() != like.untyped_storage().nbytes():
            return False
        taken.add(storage._cdata)
    return True


def _meta_tensors(tree: object) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.device.type == "meta")
