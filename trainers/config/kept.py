"""The configuration that a run keeps in its folder, compared with the current one."""

from collections.abc import Collection
from pathlib import Path

from yacs.config import CfgNode

from ..storage.atomic import replacing
from .errors import ConfigError
from .fields import put, value_of
from .keys import fields_of, is_own, is_place
from .merge import leaves, merge_kept


def used(cfg: CfgNode) -> CfgNode:
    """Return the part of a configuration that its trainer reads; all of it if the trainer is another toolbox's."""
    if not is_own(cfg.TRAINER.NAME):
        return cfg
    part = CfgNode()
    for field in fields_of(cfg.TRAINER.NAME):
        if field.unread is None or not field.unread(cfg):
            put(part, field.name, value_of(cfg, field.name))
    return part


def differences(ours: CfgNode, theirs: CfgNode, same: Collection[str] = ()) -> list[str]:
    """Return the settings in which two configurations differ, as "KEY: theirs -> ours"; places do not count.

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


def keep_config(cfg: CfgNode, path: Path, same: Collection[str] = ()) -> None:
    """Write the configuration to the run's folder, after `check_kept`."""
    check_kept(cfg, path, same)
    with replacing(path) as aside:
        aside.write_text(used(cfg).dump())


def check_kept(cfg: CfgNode, path: Path, same: Collection[str] = ()) -> None:
    """Compare the configuration with the one that a run has kept, if there is one.

    Args:
        cfg: the configuration.
        path: the run's config.yaml.
        same: keys that are not compared.

    Raises:
        ConfigError: they differ: the folder has a run with other settings.
    """
    if not path.is_file():
        return
    kept = cfg.clone()
    kept.defrost()
    merge_kept(kept, path)
    if changed := differences(used(cfg), kept, same):
        raise ConfigError(
            f"{path.parent} holds a run with other settings ({'; '.join(changed[:5])}): remove the folder, or give another "
            "--output-dir"
        )
