"""The configuration that a run keeps in its folder, compared with the current one."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from ..storage.atomic import replacing
from .errors import ConfigError
from .fields import put, value_of
from .keys import FIELDS, fields_of, is_own, is_place
from .merge import leaves, merge_recorded
from .yaml_files import read_yaml


def used(cfg: CfgNode) -> CfgNode:
    """Return the part of a configuration that its trainer reads.

    All of it if the trainer is another toolbox's.
    """
    if not is_own(cfg.TRAINER.NAME):
        return cfg
    part = CfgNode()
    for field in fields_of(cfg.TRAINER.NAME):
        if field.unread is None or not field.unread(cfg):
            put(part, field.name, value_of(cfg, field.name))
    return part


def differences(ours: CfgNode, theirs: CfgNode, same: Collection[str] = ()) -> list[str]:
    """Return the settings in which two configurations differ.

    They are lines "KEY: theirs -> ours"; places do not count.

    Args:
        ours: the current configuration.
        theirs: the other one.
        same: keys that do not count either: they name the same file at another place.
    """
    others = dict(leaves(theirs))
    changed = [key for key in differing(ours, theirs) if not is_place(key) and key not in same]
    return [f"{key}: {others.get(key)!r} -> {value_of(ours, key)!r}" for key in changed]


def differing(ours: CfgNode, theirs: CfgNode) -> list[str]:
    """Return the keys of `ours` that have another value in `theirs`."""
    others = dict(leaves(theirs))
    return [key for key, value in leaves(ours) if others.get(key) != value]


def with_defaults(cfg: CfgNode) -> CfgNode:
    """Return the keys of a configuration, each declared one with its default.

    A record is merged into it: what it lacks was added by a later version, which computes the same with the default.
    """
    made = CfgNode()
    for key, value in leaves(cfg):
        put(made, key, FIELDS[key].initial() if key in FIELDS else value)
    return made


def compare_recorded(cfg: CfgNode, recorded: Mapping[str, Any], source: str, same: Collection[str] = ()) -> list[str]:
    """Return in what the settings that a trainer reads differ from recorded ones.

    They are lines "KEY: theirs -> ours".

    Args:
        cfg: the current configuration.
        recorded: the recorded one, nested; a key that it lacks counts as its default.
        source: where it is recorded, for messages.
        same: keys that are not compared.

    Raises:
        ConfigError: a recorded value is of another type.
    """
    ours, theirs, known = used(cfg), with_defaults(cfg), dict(leaves(dict(recorded)))
    merge_recorded(theirs, known, source)
    lost = [key for key, _ in leaves(ours) if key not in FIELDS and key not in known]  # another toolbox's: no default
    lines = [f"{key}: not recorded -> {value_of(ours, key)!r}" for key in lost if key not in same]
    return differences(ours, theirs, {*same, *lost}) + lines


def keep_config(cfg: CfgNode, path: Path, same: Collection[str] = ()) -> None:
    """Write the configuration to the run's folder, after `check_kept`."""
    check_kept(cfg, path, same)
    with replacing(path) as aside:
        aside.write_text(used(cfg).dump())


def check_kept(cfg: CfgNode, path: Path, same: Collection[str] = ()) -> None:
    """Compare the configuration with the one that a run has kept, if there is one.

    An emptied file is not.

    Args:
        cfg: the configuration.
        path: the run's config.yaml.
        same: keys that are not compared.

    Raises:
        ConfigError: they differ: the folder has a run with other settings.
    """
    recorded = read_yaml(path) if path.is_file() else {}
    if recorded and (changed := compare_recorded(cfg, recorded, str(path), same)):
        raise ConfigError(
            f"{path.parent} holds a run with other settings ({'; '.join(changed[:5])}): remove the folder, or give another "
            "--output-dir"
        )
