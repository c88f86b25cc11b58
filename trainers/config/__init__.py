"""The configuration: its keys, how files and options are merged, what is checked, and how a run keeps it.

Nothing here imports torch or Dassl before a value is checked against names that they define.
"""

from .backbone import backbone_problems, check_backbone, image_keys
from .boosting_keys import is_run
from .checks import boosting_tokens, check_cfg, out_of_range, problems, unused
from .errors import ConfigError, check_choice, nearest
from .fields import Field, OnlyWith, put, shown, value_of
from .kept import check_kept, compare_recorded, differences, differing, keep_config, used, with_defaults
from .keys import FIELDS, declare, extend_cfg, extend_with_hosts, fields_of, host_of, is_own, is_place, reads
from .merge import leaves, merge_file, merge_kept, merge_options
from .vocabulary import positions, precisions
from .yaml_files import read_yaml

__all__ = [
    "FIELDS",
    "ConfigError",
    "Field",
    "OnlyWith",
    "backbone_problems",
    "boosting_tokens",
    "check_backbone",
    "check_cfg",
    "check_choice",
    "check_kept",
    "compare_recorded",
    "declare",
    "differences",
    "differing",
    "extend_cfg",
    "extend_with_hosts",
    "fields_of",
    "host_of",
    "image_keys",
    "is_own",
    "is_place",
    "is_run",
    "keep_config",
    "leaves",
    "merge_file",
    "merge_kept",
    "merge_options",
    "nearest",
    "out_of_range",
    "positions",
    "precisions",
    "problems",
    "put",
    "read_yaml",
    "reads",
    "shown",
    "unused",
    "used",
    "value_of",
    "with_defaults",
]
