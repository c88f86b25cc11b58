"""Host methods. A module in this folder registers its trainer with Dassl, under the method's own name.

A toolbox with trainers of the same names must not import this package; the plug-in itself never does.
"""

import importlib
import pkgutil

from dassl.engine import TRAINER_REGISTRY
from yacs.config import CfgNode

from .base import HostTrainer

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def extend_cfg(cfg: CfgNode) -> None:
    """Add each host's node below `TRAINER`, with the keys and defaults of its own repository."""
    registered = map(TRAINER_REGISTRY.get, TRAINER_REGISTRY.registered_names())
    for host in registered:
        if isinstance(host, type) and issubclass(host, HostTrainer) and host.node not in cfg.TRAINER:
            cfg.TRAINER[host.node] = CfgNode(dict(host.defaults))
