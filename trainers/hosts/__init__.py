"""Host methods. A module in this folder registers its trainer with Dassl, under the method's own name.

A toolbox with trainers of the same names must not import this package; the plug-in itself never does.
"""

import importlib
import pkgutil

from ..config import extend_with_hosts as extend_cfg

__all__ = ["extend_cfg"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
