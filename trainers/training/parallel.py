"""Data-parallel training as `torchrun --nproc_per_node N train.py ...` starts it: one process per GPU, or several on the
CPU. In a single process everything here is a no-op.

All ranks draw the same random numbers, hence the same global batches; each computes its share of every batch, and
DistributedDataParallel averages the gradients. The run's folder must be visible to all of them.
"""

import contextlib
import datetime
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..config import ConfigError
from .rng import get_rng_state, set_rng_state

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
_TIMEOUT = datetime.timedelta(minutes=30)  # the longest wait for another rank


def rank() -> int:
    """Return the rank of this process; rank 0 writes files and logs."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this is rank 0, which writes."""
    return rank() == 0


def processes_here() -> int:
    """Return the number of this run's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", size())) if size() > 1 else 1


def cores() -> int:
    """Return the number of CPU cores that each of this run's processes may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // processes_here())


@contextlib.contextmanager
def processes(cuda: bool) -> Iterator[None]:
    """Form the process group of torchrun while the block runs.

    It uses NCCL with one GPU per rank, else gloo.

    A rank that leaves the block with an error does not wait for the others: it ends, and torchrun ends them.

    Raises:
        ConfigError: there are more processes than GPUs.
    """
    alone = any(name not in os.environ for name in _LAUNCHED) or os.environ["WORLD_SIZE"] == "1"
    if alone or dist.is_initialized():
        yield
        return
    if cuda:
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ConfigError(
                f"--nproc_per_node: process {local} of this machine finds {gpus} GPUs; expected at most one process per GPU. "
                f"Start {gpus}, or set USE_CUDA False"
            )
        torch.cuda.set_device(local)  # Dassl's device "cuda" is the current one
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_TIMEOUT)
    yield
    barrier()
    _leave()


def _leave() -> None:
    """Destroy the process group and gloo's threads.

    The group must be freed without the interpreter's lock, which a gloo thread may need to release its last tensor.
    `destroy_process_group` does so only if it has the last reference, but DDP's reducers hold some in reference cycles with
    their trainers. A group that outlives this call hangs in the garbage collector, or aborts the process at exit.
    """
    gc.collect()
    dist.destroy_process_group()


def barrier() -> None:
    """Barrier."""
    from_main(None)
    gathered(None)


def from_main(value: T) -> T:
    """Broadcast rank 0's value, which must be picklable."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """Gather the values of all ranks in order on rank 0.

    Return an empty list on the others.
    """
    if size() == 1:
        return [value]
    values: list = [None] * size() if is_main() else []
    dist.gather_object(value, values if is_main() else None, dst=0)
    return values


def on_main(action: Callable[[], T]) -> T:
    """Run `action` on rank 0 and broadcast its result; all ranks raise its error."""
    if size() == 1:
        return action()
    result: Any = None
    error: Exception | None = None
    if is_main():
        try:
            result = action()
        except Exception as caught:
            error = caught
    result, error = from_main((result, error))
    if error is not None:
        raise error
    return result


def same_randomness() -> None:
    """Broadcast rank 0's RNG state (of the CPU's generators)."""
    if size() > 1:
        set_rng_state(from_main({key: value for key, value in get_rng_state().items() if key != "cuda"}))


def from_all(values: Tensor) -> Tensor:
    """Return the values (K,) of all ranks, (N, K), on every rank."""
    if size() == 1:
        return values[None]
    every = [torch.empty_like(values) for _ in range(size())]
    dist.all_gather(every, values)
    return torch.stack(every)


class _Loss(nn.Module):
    """A trainer's loss as a module with the learner's parameters only, since DDP need not know the frozen ones."""

    def __init__(self, trainer: Any, learner: nn.Module):
        super().__init__()
        self.trainer = trainer
        self.learned = nn.ParameterList(learner.parameters())  # without its buffers, which are the same on all ranks

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        return self.trainer.compute_loss(batch)


def shared_loss(trainer: Any, learner: nn.Module) -> Callable[[dict], tuple[Tensor, dict[str, Tensor]]] | None:
    """Wrap `trainer.compute_loss` so that its gradients are averaged over all ranks.

    None in one process.

    The losses are means over the images, or do not depend on them, so the average over equal shares is the gradient of
    the global batch. A tower without prompts has a parameter without elements, which gets no gradient.
    """
    if size() == 1:
        return None
    unused = any(not parameter.numel() for parameter in learner.parameters())
    return DistributedDataParallel(_Loss(trainer, learner), find_unused_parameters=unused)


class GatheringEvaluator:
    """Dassl's evaluator over N ranks, of which rank r evaluates the batches r, r + N, r + 2 N, ...

    Logits remain on the device until the end of an evaluation and are copied at once. Rank 0 feeds the evaluator all
    batches, on the CPU, in the order of a single process.

    Args:
        evaluator: Dassl's evaluator.
    """

    def __init__(self, evaluator: Any):
        self.evaluator = evaluator
        self.outputs: list[Tensor] = []
        self.labels: list[Tensor] = []

    def reset(self) -> None:
        """Start a new evaluation."""
        self.outputs.clear()
        self.labels.clear()
        self.evaluator.reset()

    def process(self, output: Tensor, label: Tensor) -> None:
        """Collect the logits (B, C) and labels (B,) of this rank's next batch."""
        self.outputs.append(output.detach())
        self.labels.append(label)

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        """Return this rank's batches on the CPU."""
        if not self.outputs:
            return []
        outputs = self.outputs
        if outputs[0].device.type != "cpu":
            outputs = list(torch.cat(outputs).cpu().split([len(output) for output in outputs]))
        return list(zip(outputs, [label.cpu() for label in self.labels], strict=True))

    def evaluate(self) -> Any:
        """Return the results on all ranks."""
        shares = gathered(self._batches())

        def results() -> tuple[Any, Any]:
            for number in range(sum(map(len, shares))):
                self.evaluator.process(*shares[number % size()][number // size()])
            return self.evaluator.evaluate(), getattr(self.evaluator, "metrics", None)

        figures, metrics = on_main(results)
        if hasattr(self.evaluator, "metrics"):
            self.evaluator.metrics = metrics
        return figures


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Print nothing and log only errors while the block runs: rank 0 reports the warnings of all."""
    root = logging.getLogger()
    level = root.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.ERROR)  # the package's logger has a level that passes information
    handler.setFormatter(logging.Formatter(f"process {rank()}: %(levelname)s (%(name)s): %(message)s"))
    root.setLevel(logging.ERROR)
    root.addHandler(handler)
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
