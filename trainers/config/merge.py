"""Merging YAML files and KEY VALUE pairs into a configuration."""

from collections.abc import Iterator
from pathlib import Path

import yaml
from yacs.config import CfgNode

from .errors import ConfigError, nearest


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
