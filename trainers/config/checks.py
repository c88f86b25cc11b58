"""Checks of a whole configuration: each key's range, and keys that must fit each other."""

from collections.abc import Callable, Iterable
from pathlib import Path

from yacs.config import CfgNode

from .boosting_keys import is_run
from .errors import ConfigError
from .fields import Field, shown, value_of
from .keys import CASPL, FIELDS, fields_of, roles


def problems(cfg: CfgNode, training: bool = True) -> list[str]:
    """Return what is wrong with the values that a trainer of this package reads.

    Args:
        cfg: the whole configuration.
        training: whether it is for training, not for an evaluation.
    """
    fields = fields_of(cfg.TRAINER.NAME)
    found = out_of_range(cfg, fields)
    if found:  # the rules below assume values in range
        return found
    read = {field.name for field in fields}
    rules = (rule for keys, rule in _RULES if read.issuperset(keys))
    found = [problem for rule in rules if (problem := rule(cfg))]
    if training and "boosting" in roles(cfg.TRAINER.NAME):
        found += filter(None, [_boosting_classes(cfg)])
    return found


def check_cfg(cfg: CfgNode) -> None:
    """Check the values below `TRAINER.CASPL` that need no model.

    Raises:
        ConfigError: names each key, its value and what is expected.
    """
    if "CASPL" not in cfg.TRAINER:
        raise ConfigError(
            "the configuration has no TRAINER.CASPL: call caspl.extend_cfg(cfg) in extend_cfg of train.py"
        )
    if found := out_of_range(cfg, CASPL):
        raise ConfigError("; ".join(found))


def unused(cfg: CfgNode, given: Iterable[str]) -> list[str]:
    """Return a line for each given key that this configuration does not read.

    It states the reason.
    """
    fields = (FIELDS[key] for key in dict.fromkeys(given) if key in FIELDS)
    pairs = ((field, field.unread(cfg) if field.unread else "") for field in fields)
    return [f"{field.name}: {shown(value_of(cfg, field.name))} is not used: {why}" for field, why in pairs if why]


def out_of_range(cfg: CfgNode, fields: Iterable[Field]) -> list[str]:
    """Return a line for each key whose value is not in its range."""
    values = [(field, value_of(cfg, field.name)) for field in fields]
    found = [(field.name, value, field.problem(value)) for field, value in values]
    return [f"{key}: {shown(value)}; expected {expected}" for key, value, expected in found if expected]


def _folder(cfg: CfgNode) -> str:
    folder = Path(cfg.OUTPUT_DIR)
    existing = next((path for path in (folder, *folder.parents) if path.exists() or path.is_symlink()), folder)
    return f"OUTPUT_DIR: {cfg.OUTPUT_DIR}; expected a folder, {existing} is not" if not existing.is_dir() else ""


def _resume(cfg: CfgNode) -> str:
    folder = Path(cfg.RESUME)
    if not cfg.RESUME or (folder / "progress.pt").is_file() or any(folder.glob("*/checkpoint")):
        return ""
    found = "has no progress.pt and no checkpoint" if folder.is_dir() else "does not exist"
    return f"RESUME: {cfg.RESUME}; expected the folder of a run (--resume), it {found}"


def _area(cfg: CfgNode) -> str:
    low, high = cfg.INPUT.RRCROP_SCALE
    return f"INPUT.RRCROP_SCALE: {(low, high)}; expected the smallest area first" if low > high else ""


def _kernel(cfg: CfgNode) -> str:
    if "gaussian_blur" not in cfg.INPUT.TRANSFORMS:
        return ""
    size, most = cfg.INPUT.GB_K, 2 * min(cfg.INPUT.SIZE) - 1
    fits = size % 2 and size <= most
    return "" if fits else f"INPUT.GB_K: {size}; expected an odd number, at most {most} for INPUT.SIZE"


def _nesterov(cfg: CfgNode) -> str:
    optim = cfg.OPTIM
    if optim.NAME != "sgd" or not optim.SGD_NESTEROV or (optim.MOMENTUM > 0 and optim.SGD_DAMPNING == 0):
        return ""
    return (
        f"OPTIM.SGD_NESTEROV: True with OPTIM.MOMENTUM {optim.MOMENTUM} and OPTIM.SGD_DAMPNING {optim.SGD_DAMPNING}; "
        "expected a momentum above 0 and a dampening of 0"
    )


def _steps(cfg: CfgNode) -> str:
    steps = list(cfg.OPTIM.STEPSIZE)
    if cfg.OPTIM.LR_SCHEDULER == "multi_step" and (steps != sorted(set(steps)) or min(steps) < 1):
        return f"OPTIM.STEPSIZE: {shown(steps)}; expected rising epochs, each 1 or more, for multi_step"
    if cfg.OPTIM.LR_SCHEDULER == "single_step" and len(steps) != 1:
        return f"OPTIM.STEPSIZE: {shown(steps)}; expected one number for single_step"
    return ""


def _instances(cfg: CfgNode) -> str:
    node = cfg.DATALOADER.TRAIN_X
    if node.SAMPLER != "RandomClassSampler" or node.N_INS <= node.BATCH_SIZE:
        return ""
    return f"DATALOADER.TRAIN_X.N_INS: {node.N_INS}; expected at most BATCH_SIZE, {node.BATCH_SIZE}"


def _best(cfg: CfgNode) -> str:
    if cfg.TEST.FINAL_MODEL != "best_val" or not cfg.TEST.NO_TEST:
        return ""
    return "TEST.FINAL_MODEL: 'best_val' with TEST.NO_TEST True; expected 'last_step', or TEST.NO_TEST False"


def _initial(cfg: CfgNode) -> str:
    path = cfg.MODEL.INIT_WEIGHTS
    missing = path and not Path(path).is_file()
    return f"MODEL.INIT_WEIGHTS: {path}; expected a checkpoint; the file does not exist" if missing else ""


def boosting_tokens(cfg: CfgNode) -> str:
    """Return what is wrong with a boosting prompt that has no tokens, or an empty string."""
    node = cfg.TRAINER.CASPL
    if node.N_CTX_TEXT * node.DEPTH_TEXT or node.N_CTX_VISION * node.DEPTH_VISION:
        return ""
    return (
        f"TRAINER.CASPL.N_CTX_TEXT {node.N_CTX_TEXT}, TRAINER.CASPL.DEPTH_TEXT {node.DEPTH_TEXT}, "
        f"TRAINER.CASPL.N_CTX_VISION {node.N_CTX_VISION}, TRAINER.CASPL.DEPTH_VISION {node.DEPTH_VISION}: no tokens to learn; "
        "expected tokens in at least one tower"
    )


def _template(cfg: CfgNode) -> str:
    template = cfg.TRAINER.CASPL.TEACHER.TEMPLATE
    if not template or "{}" in template or template.endswith(".json"):
        return ""
    return f"TRAINER.CASPL.TEACHER.TEMPLATE: {template!r}; expected a {{}} for the class name, or a JSON file of texts"


def _zero_shot_template(cfg: CfgNode) -> str:
    template = cfg.DATASET.TEMPLATE
    if not template or "{}" in template or (template.endswith(".json") and Path(template).is_file()):
        return ""
    return f"DATASET.TEMPLATE: {shown(template)}; expected a {{}} for the class name, or a JSON file of texts"


def _class_names(cfg: CfgNode) -> str:
    path = cfg.DATASET.CLASSNAMES
    missing = path and not Path(path).is_file()
    return f"DATASET.CLASSNAMES: {path}; expected a file of class names; the file does not exist" if missing else ""


def _cache(cfg: CfgNode) -> str:
    if not cfg.TRAINER.CASPL.TEACHER.CACHE or cfg.SEED >= 0:
        return ""
    return f"SEED: {cfg.SEED}; expected 0 or more with TRAINER.CASPL.TEACHER.CACHE: no other run draws the same augmentations"


def _teachers(cfg: CfgNode) -> str:
    node = cfg.TRAINER.CASPL.TEACHER
    if node.RUN and node.RUNS:
        return f"TRAINER.CASPL.TEACHER.RUN: {node.RUN}, next to RUNS; expected one of them. Move it into RUNS"
    for key, name in [("RUN", node.RUN)] * bool(node.RUN) + [("RUNS", name) for name in node.RUNS]:
        if (key == "RUN" or _denotes_run(name)) and "hf-hub:" not in name and not is_run(name):
            found = name if name.strip() else repr(name)
            return (
                f"TRAINER.CASPL.TEACHER.{key}: {found}; expected the folder of a finished run, which has a config.yaml"
            )
    return ""


def _denotes_run(name: str) -> bool:
    """Return whether a member of `TEACHER.RUNS` can only be a run.

    It is empty, or a folder that is not a Hugging Face CLIP.
    """
    folder = Path(name).expanduser()
    return (
        name.strip() in ("", ".")
        or name.startswith(_RUN)
        or (folder.is_dir() and not (folder / "config.json").is_file())
    )


_RUN = ("run:", "local-dir:", "~")


def _boosting_classes(cfg: CfgNode) -> str:
    asked, wanted = cfg.DATASET.SUBSAMPLE_CLASSES, cfg.TRAINER.CASPL.CLASSES
    if asked in ("all", wanted):
        return ""
    return (
        f"DATASET.SUBSAMPLE_CLASSES: {asked!r}; expected 'all': phase 1 trains on the classes of TRAINER.CASPL.CLASSES, "
        f"{wanted!r}. Set that key"
    )


_RULES: tuple[tuple[tuple[str, ...], Callable[[CfgNode], str]], ...] = (
    (("OUTPUT_DIR",), _folder),
    (("RESUME",), _resume),
    (("DATASET.TEMPLATE",), _zero_shot_template),
    (("DATASET.CLASSNAMES",), _class_names),
    (("INPUT.RRCROP_SCALE",), _area),
    (("INPUT.GB_K",), _kernel),
    (("OPTIM.SGD_NESTEROV",), _nesterov),
    (("OPTIM.STEPSIZE",), _steps),
    (("DATALOADER.TRAIN_X.N_INS",), _instances),
    (("TEST.FINAL_MODEL",), _best),
    (("MODEL.INIT_WEIGHTS",), _initial),
    (("TRAINER.CASPL.DEPTH_TEXT",), boosting_tokens),
    (("TRAINER.CASPL.TEACHER.TEMPLATE",), _template),
    (("TRAINER.CASPL.TEACHER.CACHE",), _cache),
    (("TRAINER.CASPL.TEACHER.RUN", "TRAINER.CASPL.TEACHER.RUNS"), _teachers),
)
