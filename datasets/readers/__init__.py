"""One file per dataset (or family of datasets); every file in this folder is imported and registers its readers."""

import importlib
import pkgutil


def register_all() -> None:
    """Import every module in this folder; each registers its readers with Dassl."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
