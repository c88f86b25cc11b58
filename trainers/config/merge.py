"""Merging YAML files and KEY VALUE pairs into a configuration."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from .errors import ConfigError, nearest
from .fields import put, shown, value_of
from .keys import FIELDS
from .yaml_files import read_yaml


def merge_file(cfg: CfgNode, path: str | Path, _above: tuple[Path, ...] = ()) -> None:
    """Merge a YAML file into `cfg`.

    Its key `_BASE_` names a file (relative to it) that is merged before it.

    Raises:
        ConfigError: the file is missing or not YAML, or has a key that does not exist or a value of another type.
    """
    path = Path(path)
    node = read_yaml(path)
    base = node.pop("_BASE_", None)
    if base is not None:
        _merge_base(cfg, path, base, (*_above, path.resolve()))
    merge_options(cfg, [item for pair in leaves(node) for item in pair], str(path))


def _merge_base(cfg: CfgNode, path: Path, base: Any, above: tuple[Path, ...]) -> None:
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: _BASE_: {shown(base)}; expected the path of another file")
    if (path.parent / base).resolve() in above:
        raise ConfigError(f"{path}: _BASE_: {base!r} leads back to the file itself; expected the path of another file")
    merge_file(cfg, path.parent / base, above)


def merge_kept(cfg: CfgNode, path: str | Path) -> None:
    """Merge the configuration that a run kept, of this version or an earlier one.

    Raises:
        ConfigError: the file is missing or not YAML, or has a value of another type.
    """
    merge_recorded(cfg, dict(leaves(read_yaml(Path(path)))), str(path))


def merge_recorded(cfg: CfgNode, recorded: Mapping[str, Any], source: str) -> None:
    """Merge recorded {key: value} into `cfg`.

    Earlier versions kept all of Dassl's keys, and those of all methods: keys that do not exist are left out.

    Raises:
        ConfigError: a value is of another type.
    """
    known = {key for key, _ in leaves(cfg)}
    merge_options(cfg, [item for pair in recorded.items() if pair[0] in known for item in pair], source)


def merge_options(cfg: CfgNode, options: list, source: str = "the command line") -> None:
    """Merge [KEY, VALUE, KEY, VALUE, ...] into `cfg`.

    Raises:
        ConfigError: a key without a value, one that does not exist (with the nearest ones), or a value of another type.
    """
    if len(options) % 2:
        raise ConfigError(f"{options[-1]}: no value on {source}; expected pairs KEY VALUE")
    known = {key for key, _ in leaves(cfg)}
    problems = []
    for key, value in zip(options[::2], options[1::2], strict=True):
        if key not in known:
            raise ConfigError(f"{source}: unknown key {str(key)[:80]!r}: {nearest(str(key)[:80], sorted(known))}")
        problems += _merge_value(cfg, key, value, source)
    if problems:
        raise ConfigError("; ".join(problems))


def _merge_value(cfg: CfgNode, key: str, value: Any, source: str) -> list[str]:
    """Set one key; return what is wrong with the value."""
    try:
        if key in FIELDS:
            put(cfg, key, FIELDS[key].convert(value))
        else:
            cfg.merge_from_list([key, float(value) if isinstance(value_of(cfg, key), float) else value])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        expected = error.args[0] if key in FIELDS else f"a value like {shown(value_of(cfg, key))}"
        return [f"{key}: {shown(value)} ({source}); expected {expected}"]
    return []


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all keys of a configuration, dots between their parts, with their values."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
