"""The configuration: the node `TRAINER.CASPL`, what is checked about it, and how files and options are merged."""

import difflib
from collections.abc import Iterator
from pathlib import Path

import yaml
from yacs.config import CfgNode

from .engine import ORDERS
from .engine.precision import NAMES as PRECISIONS
from .files import replacing

CLASSES = ("all", "base")


class ConfigError(ValueError):
    """A configuration that cannot be meant."""


def extend_cfg(cfg: CfgNode) -> None:
    """Add CasPL's keys to a Dassl configuration; call it in the toolbox's own `extend_cfg`. Twice does no harm.

    `TRAINER.CASPL` is the same in both phases:

    - CHECKPOINT: phase 2: the boosting-prompt file, or the folder of the run that trained it.
    - N_CTX_TEXT, N_CTX_VISION: boosting tokens in each tower; DEPTH_TEXT, DEPTH_VISION: in how many blocks.
    - CTX_INIT: words that the text tokens of the first layer start from (4 tokens at most), else N(0, 0.02).
    - TEXT_ORDER: boosting_first, or host_first (the published layout of the text tower).
    - PREC: phase 1's precision. TEMPERATURE: of the distillation.
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


def check_choice(key: str, value, allowed) -> None:
    """Raise `ConfigError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}, expected one of {', '.join(map(repr, allowed))}")


def check_image_size(cfg: CfgNode, size: int) -> None:
    """Raise `ConfigError` unless `INPUT.SIZE` is what the backbone takes, `size` pixels."""
    if tuple(cfg.INPUT.SIZE) != (size, size):
        raise ConfigError(
            f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}, but the backbone {cfg.MODEL.BACKBONE.NAME} takes images of "
            f"{size} x {size}: set INPUT.SIZE to ({size}, {size})"
        )


def merge_file(cfg: CfgNode, path: str | Path) -> None:
    """Merge a YAML file into `cfg`. Its key `_BASE_` names a file (relative to it) that is merged before it.

    Raises:
        ConfigError: the file is not there or no YAML, or has a key that does not exist or a value of another type.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [str(p) for p in sorted(path.parent.glob("*.yaml"))]
        raise ConfigError(f"no configuration file {path}: {nearest(str(path), siblings)}")
    try:
        node = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    if not isinstance(node, dict):
        raise ConfigError(f"{path} holds {node!r}, expected keys and values, as `OPTIM: {{LR: 0.002}}`")
    base = node.pop("_BASE_", None)
    if base is not None and (not isinstance(base, str) or (path.parent / base).resolve() == path.resolve()):
        raise ConfigError(f"{path}: _BASE_ is {base!r}, expected the path of another file")
    if base:
        try:
            merge_file(cfg, path.parent / base)
        except RecursionError as error:
            raise ConfigError(f"{path}: _BASE_ goes round in a circle by way of {base!r}") from error
    merge_options(cfg, [item for pair in leaves(node) for item in pair], str(path))


def merge_options(cfg: CfgNode, options: list, source: str = "the command line") -> None:
    """Merge [KEY, VALUE, KEY, VALUE, ...] into `cfg`.

    Raises:
        ConfigError: a key without a value, one that does not exist (with the nearest ones), or a value of another type.
    """
    if len(options) % 2:
        raise ConfigError(f"{options[-1]!r} on {source} has no value: write pairs KEY VALUE")
    known = [key for key, _ in leaves(cfg)]
    for key, value in zip(options[::2], options[1::2], strict=True):
        if str(key).startswith("--"):
            raise ConfigError(f"{key} stands behind KEY VALUE pairs: put it ahead of {options[0]}")
        if key not in known:
            raise ConfigError(f"{source}: there is no key {key!r}: {nearest(str(key), known)}")
        try:
            if isinstance(value_of(cfg, key), float):  # yacs itself refuses 2 where it knows 1.0
                value = float(value)
            cfg.merge_from_list([key, value])
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{source}: {key} is {value!r}, expected a value like {value_of(cfg, key)!r}") from error


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """All keys of a configuration, dots between their parts, with their values."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_of(cfg: CfgNode, key: str):
    """The value behind a key with dots between its parts."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def nearest(name: str, known: list[str]) -> str:
    """The known names nearest to one that is not, in words for an error message."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not close:
        lower = {k.lower(): k for k in known}
        close = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known are {', '.join(sorted(known)[:40])}" if known else "there are none here"


# Where a run happens, not what it is (a run keeps a copy of its boosting prompt, which is compared itself).
_PLACES = (
    *("OUTPUT_DIR", "RESUME", "DATASET.ROOT", "TRAINER.CASPL.CHECKPOINT"),
    *("DATALOADER.NUM_WORKERS", "VERBOSE", "USE_CUDA", "TRAIN.PRINT_FREQ"),
)


def differences(ours: CfgNode, theirs: CfgNode) -> list[str]:
    """The settings in which two configurations differ, as "KEY: theirs -> ours"; where a run happens does not count."""
    changed = [key for key in differing(ours, theirs) if key not in _PLACES]
    return [f"{key}: {dict(leaves(theirs)).get(key)!r} -> {value_of(ours, key)!r}" for key in changed]


def differing(ours: CfgNode, theirs: CfgNode) -> list[str]:
    """The keys of `ours` that have another value in `theirs`."""
    others = dict(leaves(theirs))
    return [key for key, value in leaves(ours) if others.get(key) != value]


def keep_config(cfg: CfgNode, path: Path) -> None:
    """Write the configuration beside the run, after `check_kept`."""
    check_kept(cfg, path)
    with replacing(path) as aside:
        aside.write_text(cfg.dump())


def check_kept(cfg: CfgNode, path: Path) -> None:
    """Compare the configuration with the one that was kept beside a run, if there is one.

    Raises:
        ConfigError: they differ: the folder has a run with other settings in it.
    """
    if not path.is_file():
        return
    kept = cfg.clone()
    kept.defrost()
    merge_file(kept, path)
    if changed := differences(cfg, kept):
        raise ConfigError(
            f"{path.parent} holds a run with other settings ({'; '.join(changed[:5])}): remove the folder, or give another "
            "--output-dir"
        )
