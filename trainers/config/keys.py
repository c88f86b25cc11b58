"""The keys below `TRAINER.CASPL`: their defaults and checks."""

from yacs.config import CfgNode

from ..engine import ORDERS
from ..engine.precision import NAMES as PRECISIONS
from .errors import ConfigError, check_choice

CLASSES = ("all", "base")


def extend_cfg(cfg: CfgNode) -> None:
    """Add CasPL's keys to a Dassl configuration; call it in the toolbox's own `extend_cfg`. Twice does no harm.

    `TRAINER.CASPL` is the same in both phases:

    - CHECKPOINT: phase 2: the boosting-prompt file, or the folder of the run that trained it.
    - N_CTX_TEXT, N_CTX_VISION: boosting tokens in each tower; DEPTH_TEXT, DEPTH_VISION: in how many blocks.
    - CTX_INIT: words that the text tokens of the first layer start from (4 tokens at most), else N(0, 0.02).
    - TEXT_ORDER: boosting_first, or host_first (the published layout of the text tower).
    - PREC: phase 1's precision. TEMPERATURE: of the distillation.
    - LOSS: phase 1's loss, an entry of `method.losses.LOSSES`.
    - CLASSES: phase 1's classes, all or base.
    - HOST_WORDS: words that stand in phase 1 where the host's context will stand in phase 2.
    - TEACHER.BACKBONE, TEACHER.TEMPLATE: the teacher CLIP, as `MODEL.BACKBONE.NAME` or
      "open_clip:<architecture>/<tag or file>", and its template (empty: the dataset's).
    - TEACHER.VIEWS: how many augmentations of each image there are, which the epochs take in turn (0: as many as epochs).
    - TEACHER.CACHE: a folder to keep the teacher's image features in, rounded to float16, for later epochs and runs
      (empty: none are kept, nor rounded).
    """
    if "SUBSAMPLE_CLASSES" not in cfg.DATASET:
        cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    if "CASPL" in cfg.TRAINER:
        return
    node = cfg.TRAINER.CASPL = CfgNode()
    node.CHECKPOINT = ""
    node.N_CTX_TEXT = 8
    node.N_CTX_VISION = 8
    node.DEPTH_TEXT = 12
    node.DEPTH_VISION = 12
    node.CTX_INIT = ""
    node.TEXT_ORDER = "boosting_first"
    node.PREC = "fp16"
    node.TEMPERATURE = 1.0
    node.LOSS = "kl"
    node.CLASSES = "all"
    node.HOST_WORDS = ""
    node.TEACHER = CfgNode()
    node.TEACHER.BACKBONE = "ViT-L/14"
    node.TEACHER.TEMPLATE = ""
    node.TEACHER.VIEWS = 0
    node.TEACHER.CACHE = ""


def check_cfg(cfg: CfgNode) -> None:
    """Check the values of `TRAINER.CASPL` that no model is needed for.

    Raises:
        ConfigError: names the key, what was found and what was expected.
    """
    if "CASPL" not in cfg.TRAINER:
        raise ConfigError(
            "the configuration has no TRAINER.CASPL: call caspl.extend_cfg(cfg) in extend_cfg of train.py"
        )
    node = cfg.TRAINER.CASPL
    for key, allowed in (("TEXT_ORDER", ORDERS), ("PREC", PRECISIONS), ("CLASSES", CLASSES)):
        check_choice(f"TRAINER.CASPL.{key}", node[key], allowed)
    for key in ("N_CTX_TEXT", "N_CTX_VISION", "DEPTH_TEXT", "DEPTH_VISION"):
        if node[key] < 0:
            raise ConfigError(f"TRAINER.CASPL.{key} is {node[key]}, expected 0 or more")
    if node.TEACHER.VIEWS < 0:
        raise ConfigError(
            f"TRAINER.CASPL.TEACHER.VIEWS is {node.TEACHER.VIEWS}, expected 0 (as many as epochs) or more"
        )
    if node.TEACHER.CACHE and cfg.SEED < 0:
        raise ConfigError(
            f"TRAINER.CASPL.TEACHER.CACHE is {node.TEACHER.CACHE!r}, but SEED is {cfg.SEED}, with which no run's "
            "augmentations come back: set SEED to 0 or more, or leave the cache out"
        )
    if node.TEMPERATURE <= 0:
        raise ConfigError(f"TRAINER.CASPL.TEMPERATURE is {node.TEMPERATURE}, expected a number above 0")
