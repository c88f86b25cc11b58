"""The metrics of an evaluation: one file each, found by being in this folder.

A metric is a subclass of `Metric`; its name is a key of `result.json` and a column of the tables.
"""

import importlib
import inspect
import pkgutil

from .base import Metric


def all_metrics() -> list[type[Metric]]:
    """Return the metric classes of this folder, in the order of their names."""
    found: dict[str, type[Metric]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if inspect.isclass(value) and issubclass(value, Metric) and value is not Metric:
                found[value.name] = value
    return [found[name] for name in sorted(found)]


__all__ = ["Metric", "all_metrics"]
