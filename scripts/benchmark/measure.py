"""What a piece of work costs: time, counted operations, memory; and what the machine can do."""

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from trainers.engine.kernels import linear

Work = Callable[[], object]
_ATEN = torch.ops.aten


def _of_attention(q, k, v, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop_count(q, k, v)


def _of_attention_backward(grad, q, k, v, *args, out_shape=None, **kwargs) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


def _of_linear(x, weight, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(x) * weight[0]


# PyTorch's counter knows the attention kernels of GPUs only, and no kernel that a compiler puts in.
_ON_CPU = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _of_attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _of_attention_backward,
    torch.ops.mkldnn._linear_pointwise: _of_linear,
}


def operations(work: Work) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `work`.

    Not to be counted together with the memory: the counter holds on to tensors.
    """
    with FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter:
        work()
    return counter.get_total_flops()


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most memory that tensors made by `work` take at a time; what was there before does not count."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = most = 0
    for event in sorted(events, key=_start):
        taken += event.nbytes()
        most = max(most, taken)
    return most


def _start(event) -> int:
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()  # PyTorch up to 2.3


def seconds(work: Work, device: torch.device) -> float:
    """Wall-clock time of one call."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def in_turns(works: Sequence[Work], rounds: int, device: torch.device) -> list[float]:
    """Median seconds of each work, timed in alternation; each must have been called before, to warm up.

    Each round begins with another one and goes the other way round: who comes behind a work that takes much memory pays
    for it, and it should not be always the same.
    """
    times: list[list[float]] = [[] for _ in works]
    for turn in range(rounds):
        for step in range(len(works)):
            number = (turn + (-1) ** turn * step) % len(works)
            times[number].append(seconds(works[number], device))
    return [statistics.median(each) for each in times]


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Operations a second that this machine reaches in one large matrix product (the best of several, by each kernel)."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    kernels = (lambda: a @ b, lambda: linear(a, b, b[0]))
    best = min(seconds(kernel, device) for _ in range(8) for kernel in kernels)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
