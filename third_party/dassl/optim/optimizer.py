"""Optimisers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.utils import check_availability


def _adam(cfg: CfgNode) -> dict[str, Any]:
    return {"betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2)}


def _sgd(cfg: CfgNode) -> dict[str, Any]:
    return {"momentum": cfg.MOMENTUM, "dampening": cfg.SGD_DAMPNING, "nesterov": cfg.SGD_NESTEROV}


_OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "adam": (torch.optim.Adam, _adam),
    "adamw": (torch.optim.AdamW, _adam),
    "sgd": (torch.optim.SGD, _sgd),
}
AVAI_OPTIMS = list(_OPTIMIZERS)


def build_optimizer(
    model: nn.Module | Iterable[Any] | None, optim_cfg: CfgNode, param_groups: Iterable[Any] | None = None
) -> torch.optim.Optimizer:
    """Build the optimiser `optim_cfg.NAME`.

    Args:
        model: a module, or parameters (or groups of them).
        optim_cfg: `cfg.OPTIM`.
        param_groups: optimised in place of `model` unless None.

    Raises:
        ValueError: the name is unknown.
    """
    check_availability(optim_cfg.NAME, AVAI_OPTIMS)
    if param_groups is None:
        param_groups = model.parameters() if isinstance(model, nn.Module) else model
    optimizer, arguments = _OPTIMIZERS[optim_cfg.NAME]
    return optimizer(param_groups, lr=optim_cfg.LR, weight_decay=optim_cfg.WEIGHT_DECAY, **arguments(optim_cfg))
