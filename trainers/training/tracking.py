"""Experiment trackers: wandb or trackio, through the `init`, `log` and `finish` that both have."""

import contextlib
import importlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..config import ConfigError, leaves, used

logger = logging.getLogger(__name__)

PROJECT = "caspl"


class Tracker:
    """Sends figures to a tracker.

    Without a module, a no-op. A failing tracker never ends a training.

    Args:
        module: the tracker's module, whose run is started; None without one.
    """

    def __init__(self, module: Any = None):
        self.module = module

    def log(self, figures: Mapping[str, Any]) -> None:
        """Send {name: number}; the first failure is logged, and nothing is sent after it."""
        if self.module is None:
            return
        try:
            self.module.log(dict(figures))
        except Exception as error:  # trackers raise their own types, also for a lost network
            logger.warning("%s: %s; nothing is tracked from here on", self.module.__name__, type(error).__name__)
            self.module = None


def check_tracker(name: str) -> Any:
    """Import a tracker.

    Args:
        name: the value of `TRAIN.TRACK`; empty without one.

    Returns:
        Its module; None without one.

    Raises:
        ConfigError: it is not installed.
    """
    if not name:
        return None
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"TRAIN.TRACK: {name} cannot be imported ({error}); expected an installed package. pip install {name}, or "
            "leave the key empty"
        ) from error


@contextlib.contextmanager
def tracking(cfg: CfgNode) -> Iterator[Tracker]:
    """Track a run while the block runs.

    Args:
        cfg: its configuration; the tracker gets what its trainer reads.

    Raises:
        ConfigError: the tracker is not installed, or does not start.
    """
    module = check_tracker(cfg.TRAIN.get("TRACK", ""))
    if module is None:
        yield Tracker()
        return
    folder = Path(cfg.OUTPUT_DIR)
    name = "/".join(folder.absolute().parts[-4:])
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in leaves(used(cfg))}
    try:
        module.init(project=PROJECT, name=name, config=settings)
    except Exception as error:  # such as a missing login; its text may hold secrets
        raise ConfigError(
            f"TRAIN.TRACK: {module.__name__}.init failed ({type(error).__name__}); expected a tracker that starts. Log in "
            "first, work offline, or leave the key empty"
        ) from error
    try:
        yield Tracker(module)
    finally:
        with contextlib.suppress(Exception):
            module.finish()
