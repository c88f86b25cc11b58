"""CasPL, Cascade Prompt Learning for CLIP, as a plug-in for the Dassl toolbox family (arXiv 2409.17805).

Importing this package (`trainers` in a checkout, `caspl` when installed) registers the trainers `CasPL` (phase 1) and
`CasPL_<Host>` (phase 2) with Dassl, and no name that a toolbox owns.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from .version import __version__

# Public names, imported on first use.
_PUBLIC = {
    "extend_cfg": ".config",
    "wrap": ".plugin.cascade",
    "boosted": ".plugin.api",
    "inject": ".plugin.api",
    "load": ".deploy.classifier",
}

__all__ = ["__version__", "activate", "boosted", "extend_cfg", "inject", "load", "wrap"]


def activate() -> None:
    """Make `dassl` and `torchvision` importable, and register the trainers with Dassl.

    Repeating it is a no-op.

    Raises:
        ModuleNotFoundError: neither Dassl nor this package's substitute for it is available.
    """
    compat = importlib.import_module(".plugin.compat", __name__)
    compat.ensure_torchvision()
    compat.ensure_dassl()
    importlib.import_module(".method.boosting", __name__)
    importlib.import_module(".plugin.cascade", __name__)


def _runs_as_command() -> bool:
    """Return whether this process is one of this package's programs, whose `--help` must not wait for torch."""
    asked = [sys.orig_argv[i + 1 : i + 2] for i, word in enumerate(sys.orig_argv) if word == "-m"]
    program, checkout = Path(sys.argv[0] if sys.argv else ""), Path(__file__).resolve().parents[1]
    launchers = (checkout / "train.py", checkout / "scripts" / "data.py", checkout / "scripts" / "results.py")
    ours = program.resolve() in launchers or program.resolve().parent == checkout / "scripts" / "caspl"
    return asked[:1] == [[__name__]] or program.stem == "caspl" or ours


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        activate()
        return getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if not _runs_as_command():
    activate()
