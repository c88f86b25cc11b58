"""Training steps from compiled blocks and a CUDA graph: what is used, and the replayed step."""

import importlib.util
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from ..engine import blocks_gpu
from ..engine.paths import minimizes_launches
from ..pytorch import COMPILE, check_pytorch, has_pytorch
from . import parallel

logger = logging.getLogger(__name__)

WARM_UP = 3  # eager steps before a capture
# Compiling takes 3 to 6 s and saves 0.2 to 0.6 ms of a replayed step of batch 4 (measured on an H200, ViT-B/16).
WORTH_COMPILING = 20_000  # steps
INPUTS = ("img", "label", "features", "frozen", "teacher")  # entries of a batch that a step reads on the device

Step = Callable[[dict], dict[str, Tensor]]  # from a batch to its loss and figures; it computes the gradients


class Graph(Protocol):
    """A recording of kernels."""

    def warm_up(self, work: Callable[[], Any]) -> Any:
        """Run `work` as it will be recorded, and return its result."""

    def capture(self, work: Callable[[], Any]) -> Any:
        """Record `work` and return its result, whose tensors each replay overwrites."""

    def replay(self) -> None:
        """Run the recorded kernels."""


class CudaGraph:
    """A CUDA graph."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def warm_up(self, work: Callable[[], Any]) -> Any:
        """Run `work` on another stream, as a capture does, and return its result."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            result = work()
        current.wait_stream(stream)
        return result

    def capture(self, work: Callable[[], Any]) -> Any:
        """Record `work` and return its result, whose tensors each replay overwrites."""
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads pin batches meanwhile
            return work()

    def replay(self) -> None:
        """Run the recorded kernels."""
        self._graph.replay()


class GraphedStep:
    """A training step that is replayed for batches of the captured shapes.

    Other batches run eagerly.

    Args:
        step: the step.
        parameters: those that get gradients.
        make: returns an empty graph.
        required: whether a failed capture raises an error; else all steps run eagerly.
    """

    def __init__(
        self,
        step: Step,
        parameters: Iterable[nn.Parameter],
        make: Callable[[], Graph] = CudaGraph,
        required: bool = False,
    ):
        self.step, self.parameters, self.required = step, list(parameters), required
        self._graph, self._steps, self._usable = make(), 0, True
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._gradients: list[Tensor | None] = []

    def __call__(self, batch: dict) -> dict[str, Tensor]:
        """Compute the gradients of a batch; return its loss and figures, valid until the next call."""
        inputs = {key: batch[key] for key in INPUTS if key in batch}
        self._steps += self._usable
        if self._usable and self._steps <= WARM_UP:
            return self._graph.warm_up(lambda: self.step(batch))
        if self._usable and not self._inputs:
            self._capture(batch, inputs)
        if not self._usable or not self._fits(inputs):
            return self.step(batch)
        for key, value in inputs.items():
            self._inputs[key].copy_(value, non_blocking=True)
        self._graph.replay()
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient  # an eager step in between has replaced it
        return self._outputs

    def _fits(self, inputs: dict[str, Tensor]) -> bool:
        return inputs.keys() == self._inputs.keys() and all(
            value.shape == self._inputs[key].shape and value.dtype == self._inputs[key].dtype
            for key, value in inputs.items()
        )

    def _capture(self, batch: dict, inputs: dict[str, Tensor]) -> None:
        """Capture the step.

        Raises:
            RuntimeError: it cannot be captured, and that is required.
        """
        self._inputs = {key: value.clone() for key, value in inputs.items()}
        try:
            self._outputs = self._graph.capture(lambda: self.step({**batch, **self._inputs}))
        except RuntimeError as error:
            if self.required:
                raise
            logger.warning("TRAIN.CUDA_GRAPH auto: the step cannot be captured (%s); steps run eagerly", error)
            self._usable = False
        self._gradients = [parameter.grad for parameter in self.parameters]


def compiles(cfg: CfgNode, device: torch.device, graphed: bool, steps: int) -> tuple[bool, str]:
    """Return whether blocks are compiled, and why.

    Args:
        cfg: the configuration.
        device: of the training.
        graphed: whether steps are replayed from a CUDA graph; eager steps wait for Python, compiled or not.
        steps: of the training.

    Raises:
        ConfigError: they have to be, and PyTorch is too old.
    """
    wanted = cfg.TRAIN.COMPILE
    if wanted == "off":
        return False, "off"
    if not minimizes_launches(device):
        return False, f"{wanted}; a CPU's towers are not compiled"
    if wanted == "on":
        check_pytorch("TRAIN.COMPILE on", COMPILE)
    elif device.type != "cuda" or importlib.util.find_spec("triton") is None or not has_pytorch(COMPILE):
        return False, f"auto; it needs a GPU with Triton and PyTorch {COMPILE[0]}.{COMPILE[1]} or newer"
    elif not graphed or steps < WORTH_COMPILING:
        return False, f"auto; it saves time with a CUDA graph and from about {WORTH_COMPILING:,} steps on"
    return True, wanted


def graphs(cfg: CfgNode, device: torch.device) -> tuple[bool, str]:
    """Return whether steps are replayed from a CUDA graph, and why."""
    wanted = cfg.TRAIN.CUDA_GRAPH
    if wanted == "off":
        return False, "off"
    if device.type != "cuda":
        return False, f"{wanted}; it needs a GPU"
    if parallel.size() > 1:
        return False, f"{wanted}; {parallel.size()} processes exchange their gradients during a step"
    return True, wanted


def accelerated(trainer: Any, step: Step, learner: nn.Module) -> Step:
    """Return a trainer's step as `TRAIN.COMPILE` and `TRAIN.CUDA_GRAPH` ask for it.

    The choice is logged.
    """
    cfg, device = trainer.cfg, trainer.device
    graphed, why_graphed = graphs(cfg, device)
    compiled, why = compiles(cfg, device, graphed, trainer.max_epoch * len(trainer.train_loader_x))
    logger.info("Compiled blocks: %s (TRAIN.COMPILE %s)", "yes" if compiled else "no", why)
    if compiled and cfg.TRAIN.COMPILE == "auto":
        torch._dynamo.config.suppress_errors = True  # a block that cannot be compiled runs eagerly
    blocks_gpu.compile_inner_blocks("inductor" if compiled else None)
    logger.info("CUDA graph: %s (TRAIN.CUDA_GRAPH %s)", "yes" if graphed else "no", why_graphed)
    return GraphedStep(step, learner.parameters(), required=why_graphed == "on") if graphed else step
