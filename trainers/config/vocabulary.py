"""Choices that other modules define, looked up when they are needed: reading the keys imports neither torch nor Dassl."""

import importlib
from collections.abc import Callable


def _names(module: str, attribute: str) -> Callable[[], tuple]:
    """Return a function that looks up a sequence, the keys of a mapping, or the names of one of Dassl's registries."""

    def look_up() -> tuple:
        found = getattr(importlib.import_module(module, __package__), attribute)
        return tuple(found.registered_names() if hasattr(found, "registered_names") else found)

    return look_up


orders = _names("..engine", "ORDERS")
positions = _names("..engine", "POSITIONS")
precisions = _names("..engine.precision", "NAMES")
losses = _names("..method.losses", "LOSSES")
means = _names("..method.teachers", "MEANS")
transforms = _names("dassl.data.transforms.transforms", "AVAI_CHOICES")
interpolations = _names("dassl.data.transforms.transforms", "INTERPOLATION_MODES")
optimizers = _names("dassl.optim.optimizer", "AVAI_OPTIMS")
schedulers = _names("dassl.optim.lr_scheduler", "AVAI_SCHEDS")
evaluators = _names("dassl.evaluation", "EVALUATOR_REGISTRY")
