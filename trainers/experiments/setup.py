"""Assembling a run's configuration: defaults, files, options; checked before anything is built."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from yacs.config import CfgNode

from .. import config, hosts
from ..backbones import sizes_of, source_of
from ..config import ConfigError, nearest
from ..method.prompt_file import FILE_NAME
from ..plugin.cascade import cascaded_name, wrap
from ..training import loaders
from ..training.run import own_class
from .places import host_names, load_datasets

logger = logging.getLogger(__name__)

load_datasets()
for _host in host_names().values():
    wrap(_host)


def default_cfg() -> CfgNode:
    """Return Dassl's defaults with the nodes of all hosts and of CasPL."""
    cfg = get_cfg_default()
    hosts.extend_cfg(cfg)
    config.extend_cfg(cfg)
    return cfg


def assemble(
    files: Sequence[str | Path],
    options: Sequence,
    evaluated: str | Path = "",
    kept: bool = True,
    training: bool = True,
) -> CfgNode:
    """Merge files, then options, into the defaults.

    Later values win. The result is checked and frozen.

    Args:
        files: YAML files, in the order to merge them; empty names are left out.
        options: KEY, VALUE, KEY, VALUE, ...
        evaluated: the folder of the run to evaluate; empty if the configuration is for training.
        kept: with `evaluated`, merge the configuration that the run keeps before the files.
        training: whether it is for training; never with `evaluated`.

    Raises:
        ConfigError: an unknown key, trainer or dataset (with the nearest name), or values that are not accepted; the
            message names each of them.
    """
    cfg = default_cfg()
    config_file = Path(evaluated) / "config.yaml"
    if evaluated and kept and config_file.is_file():
        config.merge_kept(cfg, config_file)
        cfg.OUTPUT_DIR = str(evaluated)
        _leave_out_unread(cfg)
    for path in (file for file in files if file):
        config.merge_file(cfg, path)
    config.merge_options(cfg, list(options))
    if evaluated and (Path(evaluated) / FILE_NAME).is_file() and _may_cascade(cfg):
        cfg.TRAINER.CASPL.CHECKPOINT = str(evaluated)
    if (cascaded := cascaded_name(cfg)) != cfg.TRAINER.NAME:
        wrap(cfg.TRAINER.NAME)
        cfg.TRAINER.NAME = cascaded
    check_name("trainer", cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    check_name("dataset", cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    if own_class(cfg.TRAINER.NAME) is None:  # this package's trainers choose later, when they know their images
        cfg.DATALOADER.NUM_WORKERS = loaders.workers(cfg.DATALOADER.NUM_WORKERS)
    else:
        _take_images(cfg, options[::2])
        _name_evaluated(cfg, evaluated)
        check(cfg, options[::2], training=training and not evaluated)
    cfg.freeze()
    return cfg


def _may_cascade(cfg: CfgNode) -> bool:
    """Return whether the trainer is a host for which no boosting prompt is given."""
    return (
        not cfg.TRAINER.CASPL.CHECKPOINT and cfg.TRAINER.NAME != "CasPL" and config.reads(cfg.TRAINER.NAME, "OPTIM.LR")
    )


def _name_evaluated(cfg: CfgNode, evaluated: str | Path) -> None:
    """Tell a host that reads more than its prompts from the evaluated run where that is."""
    host: Any = own_class(cfg.TRAINER.NAME)
    if evaluated and (key := getattr(host, "evaluated_key", "")) and not cfg.TRAINER[host.node][key]:
        cfg.TRAINER[host.node][key] = str(evaluated)


def _take_images(cfg: CfgNode, given: Sequence[str]) -> None:
    """Set size, mean, deviation and interpolation of the images to those of a backbone that configures them.

    Keys that were given on the command line keep their value, which `check` compares.
    """
    name = cfg.MODEL.BACKBONE.NAME
    source = None if config.FIELDS["MODEL.BACKBONE.NAME"].problem(name) else source_of(name)  # `check` names a problem
    if source is None:
        return
    for key, value in config.image_keys(cfg, source.sizes, source).items():
        if key not in given:
            config.put(cfg, key, value)


def _leave_out_unread(cfg: CfgNode) -> None:
    """Reset what the kept trainer does not read: version 0.1.0 kept the keys of all methods and both phases."""
    default = default_cfg()
    if config.is_own(cfg.TRAINER.NAME):
        for key in config.differing(cfg, default):
            if not config.reads(cfg.TRAINER.NAME, key):
                config.put(cfg, key, config.value_of(default, key))


def check_name(what: str, name: str, known: list[str]) -> None:
    """Raise `ConfigError` with the nearest names unless `name` is registered."""
    if name not in known:
        raise ConfigError(f"{what.upper()}.NAME: unknown {what} {name[:80]!r}: {nearest(name[:80], known)}")


def check(cfg: CfgNode, given: Sequence[str] = (), training: bool = True) -> None:
    """Check what a trainer of this package reads, and that nothing is set that it does not read.

    A key that is read only under other settings is logged as a warning.

    Args:
        cfg: the whole configuration.
        given: the keys that were set on the command line.
        training: whether it is for training, not for an evaluation.

    Raises:
        ConfigError: names each key, its value and what is expected.
    """
    name = cfg.TRAINER.NAME
    found = [*_unread(cfg, given), *config.problems(cfg, training)]
    own = own_class(name)
    if not found and own is not None and hasattr(own, "node_problems"):
        found = own.node_problems(cfg, training)
    if not found and (sizes := sizes_of(cfg.MODEL.BACKBONE.NAME)) is not None:
        found = config.backbone_problems(cfg, sizes, source_of(cfg.MODEL.BACKBONE.NAME))
    if found:
        raise ConfigError("; ".join(found))
    if training:
        recipe = [
            key for key in config.differing(cfg, default_cfg()) if key != "TRAINER.CASPL.CTX_INIT"
        ]  # as published
        for line in config.unused(cfg, [*given, *recipe]):
            warn(line)
        if config.reads(name, "OPTIM.WARMUP_EPOCH") and cfg.OPTIM.WARMUP_EPOCH > cfg.OPTIM.MAX_EPOCH:
            warn(
                f"OPTIM.WARMUP_EPOCH: {cfg.OPTIM.WARMUP_EPOCH} is more than OPTIM.MAX_EPOCH, {cfg.OPTIM.MAX_EPOCH}: the "
                "learning rate never reaches OPTIM.LR"
            )
    if "normalize" not in cfg.INPUT.TRANSFORMS:
        warn("INPUT.TRANSFORMS has no 'normalize': images are not normalised, in testing neither; CLIP expects it")


@functools.cache
def warn(line: str) -> None:
    """Log a warning about a setting, once per process.

    A protocol assembles configurations several times.
    """
    logger.warning("Warning: %s", line)


def _unread(cfg: CfgNode, given: Sequence[str]) -> list[str]:
    """Return a line for each key that was set but that the trainer does not read.

    Keys in files may belong to other trainers that share the file, except for those that no trainer reads and those of
    another node below TRAINER.
    """
    name = cfg.TRAINER.NAME
    foreign = [key for key in config.differing(cfg, default_cfg()) if key not in config.FIELDS or key[:8] == "TRAINER."]
    keys = [key for key in dict.fromkeys([*given, *foreign]) if not config.reads(name, key)]
    read = [field.name for field in config.fields_of(name)]
    values = {key: config.shown(config.value_of(cfg, key)) for key in keys}
    near = {key: nearest(key, read) for key in keys}
    hints = {key: f" ({hint})" if hint.startswith("did") else "" for key, hint in near.items()}
    return [
        f"{key}: {values[key]} is set, but {name} does not read it; expected it to be left out{hints[key]}"
        for key in keys
    ]
