"""Optimisers whose update is one kernel on a GPU."""

import inspect
from typing import Any

import torch

_KERNELS = ("fused", "foreach")  # settings that choose a kernel, not what it computes


def fused(optimizer: torch.optim.Optimizer, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimiser with the fused kernel on a GPU, if it has one, else unchanged.

    A fused optimiser also skips a step of a `GradScaler` on the device, without waiting for it.

    Args:
        optimizer: one that has not made a step.
        device: of its parameters.
    """
    kind: Any = type(optimizer)
    arguments = inspect.signature(kind).parameters
    if device.type == "cpu" or "fused" not in arguments:
        return optimizer
    groups = [{key: value for key, value in group.items() if key not in _KERNELS} for group in optimizer.param_groups]
    defaults = {key: value for key, value in optimizer.defaults.items() if key in arguments and key not in _KERNELS}
    return kind(groups, **defaults, fused=True)


def with_kernels_of(optimizer: torch.optim.Optimizer, state: Any) -> Any:
    """Return a state to load with the optimiser's own kernels.

    They depend on the device and not on the run.
    """
    if not isinstance(state, dict) or not isinstance(state.get("param_groups"), list | tuple):
        return state
    groups = []
    for ours, theirs in zip(optimizer.param_groups, state["param_groups"], strict=False):
        kernels = {key: ours[key] for key in _KERNELS if key in ours and isinstance(theirs, dict) and key in theirs}
        groups.append({**theirs, **kernels} if isinstance(theirs, dict) else theirs)
    return {**state, "param_groups": [*groups, *state["param_groups"][len(groups) :]]}
