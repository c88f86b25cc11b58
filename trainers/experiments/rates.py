"""The rate of this device: operations per second of a few steps."""

import statistics
import time

import torch
from yacs.config import CfgNode

from ..engine.counts import operations
from . import workload
from .workload import META, Key, Workload

TIMED_STEPS, TIMED_CLASSES, TIMED_IMAGES = 3, 50, 10

_rates: dict[tuple[Key, bool], float] = {}


def measured_rate(cfg: CfgNode, boosting: CfgNode | None, classes: int, images: int, training: bool) -> float:
    """Return the operations per second of a few steps on this device, measured once for a configuration."""
    key = Key(cfg, boosting), training
    if key not in _rates:
        _rates[key] = _measure(cfg, boosting, min(classes, TIMED_CLASSES), images, training)
    return _rates[key]


def _measure(cfg: CfgNode, boosting: CfgNode | None, classes: int, images: int, training: bool) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
    images = images if training or device.type == "cuda" else min(images, TIMED_IMAGES)
    names = workload.synthetic_names(classes)
    counted, computed = (Workload(cfg, names, where, boosting) for where in (META, device))

    def work(of: Workload) -> None:
        if training:
            of.teach(images)
            of.step(images)
        else:
            of.evaluate(images)

    counted.prepare()
    computed.prepare()
    seconds = []
    for _ in range(1 + TIMED_STEPS):
        start = time.perf_counter()
        work(computed)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return operations(lambda: work(counted)) / statistics.median(seconds[1:])
