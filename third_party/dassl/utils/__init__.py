"""Registry, logger, checkpoints, files, meters and other helpers."""

from .checkpoint import load_checkpoint, load_pretrained_weights, load_weights, resume_from_checkpoint, save_checkpoint
from .files import check_isfile, describe_folder, listdir_nohidden, mkdir_if_missing, read_json, write_json
from .logger import Logger, setup_logger
from .meters import AverageMeter, MetricMeter
from .randomness import set_random_seed
from .registry import Registry
from .tools import check_availability, collect_env_info, describe_choices, read_image

__all__ = [
    "AverageMeter",
    "Logger",
    "MetricMeter",
    "Registry",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "describe_choices",
    "describe_folder",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "load_weights",
    "mkdir_if_missing",
    "read_image",
    "read_json",
    "resume_from_checkpoint",
    "save_checkpoint",
    "set_random_seed",
    "setup_logger",
    "write_json",
]
