"""The configuration: its keys, how files and options are merged, what is checked, and how a run keeps it."""

from .backbone import check_backbone
from .errors import ConfigError, check_choice, nearest
from .kept import check_kept, differences, differing, keep_config
from .keys import CLASSES, PRECISIONS, check_cfg, extend_cfg
from .merge import leaves, merge_file, merge_options, value_of
from .values import check_values

__all__ = [
    "CLASSES",
    "PRECISIONS",
    "ConfigError",
    "check_backbone",
    "check_cfg",
    "check_choice",
    "check_kept",
    "check_values",
    "differences",
    "differing",
    "extend_cfg",
    "keep_config",
    "leaves",
    "merge_file",
    "merge_options",
    "nearest",
    "value_of",
]
