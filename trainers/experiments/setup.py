"""Assembling a run's configuration: defaults, files, options; checked before anything is built."""

from collections.abc import Sequence
from pathlib import Path

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from yacs.config import CfgNode

from .. import hosts
from ..config import ConfigError, check_values, differing, extend_cfg, leaves, merge_file, merge_options, nearest
from ..method.prompt_file import FILE_NAME
from ..plugin.cascade import cascaded_name, wrap
from ..training import loaders
from ..training.run import own_class
from .places import host_names, load_datasets

load_datasets()
for _host in host_names().values():
    wrap(_host)


def default_cfg() -> CfgNode:
    """Return Dassl's defaults with the nodes of all hosts and of CasPL."""
    cfg = get_cfg_default()
    hosts.extend_cfg(cfg)
    extend_cfg(cfg)
    return cfg


def assemble(files: Sequence[str | Path], options: Sequence, evaluated: str | Path = "", kept: bool = True) -> CfgNode:
    """Merge files, then options, into the defaults; later values win. The result is checked and frozen.

    Args:
        files: YAML files, in the order to merge them; empty names are left out.
        options: KEY, VALUE, KEY, VALUE, ...
        evaluated: the folder of the run to evaluate; empty if the configuration is for training.
        kept: with `evaluated`, merge the configuration that the run keeps before the files.

    Raises:
        ConfigError: an unknown key, trainer or dataset (with the nearest name), or a value that is not accepted.
    """
    cfg = default_cfg()
    config_file = Path(evaluated) / "config.yaml"
    if evaluated and kept and config_file.is_file():
        merge_file(cfg, config_file)
        cfg.OUTPUT_DIR = str(evaluated)
    for path in filter(None, files):
        merge_file(cfg, path)
    merge_options(cfg, list(options))
    if (cascaded := cascaded_name(cfg)) != cfg.TRAINER.NAME:
        wrap(cfg.TRAINER.NAME)
        cfg.TRAINER.NAME = cascaded
    check_read(cfg)
    if nodes_read(cfg.TRAINER.NAME) is None:  # this package's trainers choose later, when they know their images
        cfg.DATALOADER.NUM_WORKERS = loaders.workers(cfg.DATALOADER.NUM_WORKERS)
    if evaluated and not cfg.TRAINER.CASPL.CHECKPOINT and (Path(evaluated) / FILE_NAME).is_file():
        cfg.TRAINER.CASPL.CHECKPOINT = str(evaluated)
    check_name("trainer", cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    check_name("dataset", cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    cfg.freeze()
    return cfg


def check_name(what: str, name: str, known: list[str]) -> None:
    """Raise `ConfigError` with the nearest names unless `name` is registered."""
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}: {nearest(name, known)}")


def nodes_read(trainer: str) -> set[str] | None:
    """Return the nodes below `TRAINER` that a trainer reads; None for another toolbox's, of which it is unknown."""
    found = own_class(trainer)
    if found is None:
        return None
    own = {found.node} if hasattr(found, "node") else set()
    return own | ({"CASPL"} if trainer.startswith("CasPL") else set())


def check_read(cfg: CfgNode) -> None:
    """Check the values that the trainer reads, and that none is set for another trainer.

    Raises:
        ConfigError: names the key, and the nearest one that is read.
    """
    nodes = nodes_read(cfg.TRAINER.NAME)
    if nodes is None:
        return
    check_values(cfg, nodes - {"CASPL"})
    default = default_cfg()
    read = [key for key, _ in leaves(cfg) if key.split(".")[0] != "TRAINER" or key.split(".")[1] in nodes]
    for key in differing(cfg, default):
        if key not in read and key.count(".") > 1:
            raise ConfigError(f"{key} is set, but {cfg.TRAINER.NAME} does not read it: {nearest(key, read)}")
