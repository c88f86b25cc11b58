"""Several processes that train one model, as `torchrun --nproc_per_node N train.py ...` starts them: one for each GPU, or
several on the CPU. In a process that stands alone everything here does nothing.

All processes draw the same random numbers, and so the same global batches; each computes its share of every batch, and
PyTorch's DistributedDataParallel averages the gradients. The run's folder must be visible to all of them.
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
from .rng import random_state, set_random_state

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets
_PATIENCE = datetime.timedelta(minutes=30)  # the longest that one process may keep the others waiting


def rank() -> int:
    """The number of this process; 0 is the main one, which writes files and logs."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


@contextlib.contextmanager
def processes(cuda: bool) -> Iterator[None]:
    """Join the processes that torchrun started, for the time of the block (on GPUs by NCCL, each on its own; else by gloo).

    A process that leaves the block by an error does not wait for the others: it ends, and torchrun ends them.

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
                f"process {local} of this machine finds {gpus} GPUs: start at most --nproc_per_node {gpus}, or set USE_CUDA "
                "False"
            )
        torch.cuda.set_device(local)  # Dassl's device "cuda" is the current one
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
    yield
    wait()
    _leave()


def _leave() -> None:
    """End this process's part in the group, and gloo's threads.

    The group must go while Python does not hold its lock, which a thread of gloo may need to let go of its last tensor;
    `destroy_process_group` sees to that, but only if nothing else holds the group. DDP's reducers do, in cycles with their
    trainers. A group that outlives this call hangs in the garbage collector, or aborts the process as it exits.
    """
    gc.collect()
    dist.destroy_process_group()


def wait() -> None:
    """Go on when all processes have come here."""
    from_main(None)
    gathered(None)


def from_main(value: T) -> T:
    """What the main process gives; it must be picklable."""
    if size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """On the main process, every process's value in the order of their ranks; on the others an empty list."""
    if size() == 1:
        return [value]
    values: list = [None] * size() if is_main() else []
    dist.gather_object(value, values if is_main() else None, dst=0)
    return values


def on_main(action: Callable[[], T]) -> T:
    """What `action` returns on the main process, while the others wait; an error in it is everybody's error."""
    result, error = None, None
    if is_main():
        try:
            result = action()
        except Exception as caught:
            if size() == 1:
                raise
            error = caught
    result, error = from_main((result, error))
    if error is not None:
        raise error
    return result


def same_randomness() -> None:
    """Go on drawing what the main process draws."""
    if size() > 1:
        set_random_state(from_main({key: value for key, value in random_state().items() if key != "cuda"}))


def averaged(values: list[Tensor]) -> list[float]:
    """The mean over the processes of each of some numbers; one that is not finite anywhere is so everywhere."""
    if size() == 1:
        return [value.item() for value in values]
    total = torch.cat([value.detach().double().reshape(1) for value in values])
    dist.all_reduce(total)
    return (total / size()).tolist()


class _Loss(nn.Module):
    """A trainer's loss as a module whose parameters are the learner's: the frozen ones are no concern of DDP."""

    def __init__(self, trainer, learner: nn.Module):
        super().__init__()
        self.trainer = trainer
        self.learned = nn.ParameterList(learner.parameters())  # without its buffers, which are alike everywhere

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        return self.trainer.compute_loss(batch)


def shared_loss(trainer, learner: nn.Module) -> Callable[[dict], tuple[Tensor, dict[str, Tensor]]] | None:
    """`trainer.compute_loss`, whose backward pass averages the learner's gradients over all processes; None if there is one.

    The losses are means over the images, or do not depend on them, so the average over equal shares is the gradient of
    the global batch. A tower without prompts has a parameter without elements, which gets no gradient.
    """
    if size() == 1:
        return None
    unused = any(not parameter.numel() for parameter in learner.parameters())
    return DistributedDataParallel(_Loss(trainer, learner), find_unused_parameters=unused)


class GatheringEvaluator:
    """Dassl's evaluator behind several processes, of which number r takes the batches r, r + N, r + 2 N ... of a test set.

    The evaluator itself lives on the main process, and sees what it would see if that were alone, in the same order.

    Args:
        evaluator: Dassl's.
    """

    def __init__(self, evaluator):
        self.evaluator = evaluator
        self.batches: list[tuple[Tensor, Tensor]] = []

    def reset(self) -> None:
        """Forget what was processed."""
        self.batches.clear()
        self.evaluator.reset()

    def process(self, output: Tensor, label: Tensor) -> None:
        """Take in the logits (B, C) and labels (B,) of this process's next batch."""
        self.batches.append((output.cpu(), label.cpu()))

    def evaluate(self) -> Any:
        """The results, on all processes."""
        shares = gathered(self.batches)

        def results():
            for number in range(sum(map(len, shares))):
                self.evaluator.process(*shares[number % size()][number // size()])
            return self.evaluator.evaluate(), getattr(self.evaluator, "metrics", None)

        figures, metrics = on_main(results)
        if hasattr(self.evaluator, "metrics"):
            self.evaluator.metrics = metrics
        return figures


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block nothing is printed, and no more than warnings is logged: the main process says it all."""
    root = logging.getLogger()
    level = root.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"process {rank()}: %(levelname)s (%(name)s): %(message)s"))
    root.setLevel(logging.WARNING)
    root.addHandler(handler)
    try:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
