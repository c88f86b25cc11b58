"""The default configuration."""

from .defaults import get_cfg_default

__all__ = ["clean_cfg", "get_cfg_default"]


def clean_cfg(cfg, trainer):
    """Remove, in place, the nodes of all trainers but `trainer` (a name in any case) from `cfg.TRAINER`."""
    for key in list(cfg.TRAINER.keys()):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key)
