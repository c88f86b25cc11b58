"""The registry of datasets."""

import logging
from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry, check_availability

logger = logging.getLogger(__name__)

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: CfgNode) -> Any:
    """Build the dataset `cfg.DATASET.NAME` with `cfg`.

    Raises:
        ValueError: the dataset is not registered.
    """
    check_availability(cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    if cfg.VERBOSE:
        logger.info("Loading dataset: %s", cfg.DATASET.NAME)
    return DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
