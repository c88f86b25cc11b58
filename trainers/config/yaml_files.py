"""Reading YAML of bounded size and depth."""

import copy
import functools
from pathlib import Path

import yaml

from .errors import ConfigError, nearest
from .fields import shown

_MOST_BYTES = 100_000
_DEEPEST = 20


def read_yaml(path: Path) -> dict:
    """Return the mapping in a YAML file; an empty file has none.

    Raises:
        ConfigError: the file is missing, too large, not YAML, nested too deep, or not a mapping, or has a key twice.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: a folder; expected a configuration file. Give one of its files")
    if not path.is_file():
        siblings = [str(p) for p in sorted(path.parent.glob("*.yaml"))]
        raise ConfigError(f"no configuration file {path}: {nearest(str(path), siblings)}")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: more than {_MOST_BYTES:,} bytes; expected a configuration")
    return copy.deepcopy(_parsed(path, content))


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, content: bytes) -> dict:
    """Return what `read_yaml` does; a grid merges the same few files hundreds of times."""
    try:
        text = content.decode("utf-8")
        _check_events(path, text)
        _check_keys(path, yaml.compose(text, yaml.SafeLoader))
        node = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        problem = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: not YAML ({problem}); expected keys and values, as `OPTIM: {{LR: 0.002}}`"
        ) from error
    if not isinstance(node, dict | None):
        raise ConfigError(f"{path}: {shown(node)}; expected keys and values, as `OPTIM: {{LR: 0.002}}`")
    return node or {}


def _check_events(path: Path, text: str) -> None:
    """Reject nesting and aliases, which let a small file take unbounded time, before PyYAML composes the document."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1
            raise ConfigError(
                f"{path}: the alias *{event.anchor} in line {line}; expected no aliases. Repeat the value"
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ConfigError(f"{path}: nested more than {_DEEPEST} deep; expected a configuration")


def _check_keys(path: Path, node: yaml.Node | None) -> None:
    """Reject a key that occurs twice in a mapping, of which PyYAML would take the last value."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    seen: set[str] = set()
    for key, value in pairs:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            line = key.start_mark.line + 1
            raise ConfigError(
                f"{path}: the key {shown(key.value)} again in line {line}; expected each key once. Remove one"
            )
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        _check_keys(path, value)
    for item in node.value if isinstance(node, yaml.SequenceNode) else []:
        _check_keys(path, item)
