"""Measure the time, operations and memory of a piece of work, and the machine's matrix-product rate."""

import statistics
import time
from collections.abc import Sequence

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.engine.counts import Work, operations
from trainers.engine.kernels import linear

__all__ = ["Work", "in_turns", "launches", "matrix_rate", "operations", "peak_bytes", "seconds"]

_WITHOUT_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_unsafe_view", "_reshape_alias", "detach", "lift_fresh", "is_same_size"),
}


class _Launches(TorchDispatchMode):
    """Counts the operations that launch a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        self.count += not (function.is_view or name in _WITHOUT_KERNEL)
        return function(*args, **(kwargs or {}))


def launches(work: Work) -> int:
    """Count the ATen operations in `work` that are not views or allocations.

    Call it with the GPU's implementation of the towers (see `trainers.engine.paths`).
    """
    with _Launches() as counter:
        work()
    return counter.count


def peak_bytes(work: Work, device: torch.device) -> int:
    """Return the peak memory in bytes of the tensors that `work` creates."""
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
    """Return the wall-clock time of one call in seconds."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def in_turns(works: Sequence[Work], rounds: int, device: torch.device) -> list[float]:
    """Return the median time of each work in seconds, timed in alternation.

    Rounds start with different works and alternate their direction, because a work that follows a memory-intensive one is
    slower. Every work must have been called once before, to warm up.
    """
    times: list[list[float]] = [[] for _ in works]
    for turn in range(rounds):
        for step in range(len(works)):
            number = (turn + (-1) ** turn * step) % len(works)
            times[number].append(seconds(works[number], device))
    return [statistics.median(each) for each in times]


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large square matrix product: the best of 8 runs of each kernel."""
    size = 2048 if device.type == "cpu" else 8192  # a GPU computes 2048 x 2048 in less time than it is started in
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    kernels = (lambda: a @ b, lambda: linear(a, b, b[0]))
    best = min(seconds(kernel, device) for _ in range(8) for kernel in kernels)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
