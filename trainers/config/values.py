"""The range of every configuration value that PyTorch would take without a word, or refuse without naming its key."""

import math
from pathlib import Path

from yacs.config import CfgNode

from .errors import ConfigError, check_choice
from .merge import value_of

_LEAST = {
    "DATALOADER.NUM_WORKERS": -1,  # chosen for the machine
    "DATALOADER.TRAIN_X.BATCH_SIZE": 1,
    "DATALOADER.TEST.BATCH_SIZE": 1,
    "OPTIM.LR": 0,
    "OPTIM.MAX_EPOCH": 1,
    "OPTIM.MOMENTUM": 0,
    "OPTIM.WEIGHT_DECAY": 0,
    "DATASET.NUM_SHOTS": -1,  # all images
}
_CHOICES = {
    "TEST.FINAL_MODEL": ("last_step", "best_val"),
    "TEST.SPLIT": ("val", "test"),
    "TRAIN.COUNT_ITER": ("train_x", "train_u", "smaller_one"),
    "OPTIM.WARMUP_TYPE": ("linear", "constant"),
}
_LEAST_OF_A_HOST = {"N_CTX": 1, "N_CTX_TEXT": 1, "N_CTX_VISION": 0}


def check_values(cfg: CfgNode, hosts: set[str]) -> None:
    """Refuse values with which a trainer of this package cannot work.

    Args:
        cfg: the whole configuration.
        hosts: the nodes below `TRAINER` of the hosts that are used ("COOP").

    Raises:
        ConfigError: names the key, what it is, and what is expected.
    """
    least = _LEAST | {
        f"TRAINER.{host}.{key}": value
        for host in hosts
        for key, value in _LEAST_OF_A_HOST.items()
        if key in cfg.TRAINER[host]
    }
    for key, allowed in _CHOICES.items():
        check_choice(key, value_of(cfg, key), allowed)
    for key, expected in least.items():
        value = value_of(cfg, key)
        if not (math.isfinite(value) and value >= expected):
            raise ConfigError(
                f"{key} is {value}, expected {expected} or more: mend it in the YAML or on the command line"
            )
    if cfg.SEED >= 2**32:
        raise ConfigError(f"SEED is {cfg.SEED}, expected less than 2**32, which is what NumPy takes")
    if Path(cfg.OUTPUT_DIR).is_file():
        raise ConfigError(
            f"OUTPUT_DIR is {cfg.OUTPUT_DIR}, which is a file, expected a folder: give another --output-dir"
        )
    if cfg.DATALOADER.K_TRANSFORMS != 1:
        raise ConfigError(
            f"DATALOADER.K_TRANSFORMS is {cfg.DATALOADER.K_TRANSFORMS}, expected 1: these trainers take an image as one view"
        )
    wrong = [name for name in cfg.INPUT.TRANSFORMS if not isinstance(name, str)]
    if wrong:
        raise ConfigError(f"INPUT.TRANSFORMS has {wrong[0]!r} in it, expected names such as 'random_flip'")
    if len(cfg.INPUT.SIZE) != 2:
        raise ConfigError(f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}, expected (height, width) in pixels")
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        values = cfg.INPUT[key]
        if len(values) != 3 or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise ConfigError(f"INPUT.{key} is {list(values)}, expected three numbers: red, green, blue")
    if not all(cfg.INPUT.PIXEL_STD):
        raise ConfigError(f"INPUT.PIXEL_STD is {list(cfg.INPUT.PIXEL_STD)}, expected three numbers above 0")
