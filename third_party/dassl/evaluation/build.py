"""The registry of evaluators."""

import logging
from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry, check_availability

logger = logging.getLogger(__name__)

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> Any:
    """Build the evaluator `cfg.TEST.EVALUATOR` with `cfg` and `kwargs` (`lab2cname`).

    Raises:
        ValueError: the evaluator is not registered.
    """
    check_availability(cfg.TEST.EVALUATOR, EVALUATOR_REGISTRY.registered_names())
    if cfg.VERBOSE:
        logger.info("Loading evaluator: %s", cfg.TEST.EVALUATOR)
    return EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, **kwargs)
