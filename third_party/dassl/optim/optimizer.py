"""Optimisers."""

import logging

import torch
from torch import nn

from dassl.utils import check_availability, tolist_if_not

logger = logging.getLogger(__name__)


def _adam_betas(cfg):
    return {"betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2)}


_OPTIMIZERS = {
    "adam": (torch.optim.Adam, _adam_betas),
    "amsgrad": (torch.optim.Adam, lambda cfg: {**_adam_betas(cfg), "amsgrad": True}),
    "sgd": (
        torch.optim.SGD,
        lambda cfg: {"momentum": cfg.MOMENTUM, "dampening": cfg.SGD_DAMPNING, "nesterov": cfg.SGD_NESTEROV},
    ),
    "rmsprop": (torch.optim.RMSprop, lambda cfg: {"momentum": cfg.MOMENTUM, "alpha": cfg.RMSPROP_ALPHA}),
    "radam": (torch.optim.RAdam, lambda cfg: {**_adam_betas(cfg), "decoupled_weight_decay": True}),
    "adamw": (torch.optim.AdamW, _adam_betas),
}

AVAI_OPTIMS = list(_OPTIMIZERS)


def build_optimizer(model, optim_cfg, param_groups=None):
    """The optimiser `optim_cfg.NAME`.

    Args:
        model: a module, or parameters (or groups of them).
        optim_cfg: `cfg.OPTIM`.
        param_groups: if given, these are optimised instead of `model`.

    Raises:
        ValueError: the name is unknown.
        TypeError: STAGED_LR, and `model` is not a module.
    """
    check_availability(optim_cfg.NAME, AVAI_OPTIMS)
    if param_groups is not None and optim_cfg.STAGED_LR:
        logger.warning("OPTIM.STAGED_LR is ignored: the parameter groups are given")
    if param_groups is None:
        if optim_cfg.STAGED_LR:
            param_groups = _staged_groups(model, optim_cfg)
        else:
            param_groups = model.parameters() if isinstance(model, nn.Module) else model
    optimizer, own_arguments = _OPTIMIZERS[optim_cfg.NAME]
    return optimizer(param_groups, lr=optim_cfg.LR, weight_decay=optim_cfg.WEIGHT_DECAY, **own_arguments(optim_cfg))


def _staged_groups(model, optim_cfg):
    """Two groups: the children not in NEW_LAYERS, with LR * BASE_LR_MULT, and those in it, with LR."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"OPTIM.STAGED_LR needs a module to find the layers in, got {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        model = model.module
    new_layers = optim_cfg.NEW_LAYERS
    new_layers = tolist_if_not(new_layers) if isinstance(new_layers, str) else new_layers
    base, new = [], []
    for name, child in model.named_children():
        (new if name in new_layers else base).extend(child.parameters())
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]
