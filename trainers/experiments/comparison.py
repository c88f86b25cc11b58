"""What a finished run was made with, compared with what is asked for now."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from .. import config
from ..method import prompt_file, templates, unlabelled
from ..storage.atomic import sha256
from .result import Result
from .setting import Data, Setting

logger = logging.getLogger(__name__)


def check_boosting_data(folder: Path, info: prompt_file.BoostingInfo, data: Data) -> None:
    """Raise `ConfigError` if phase 1 was trained on other images or classes; files of 0.1.0 have no fingerprint."""
    if info.classes == "all" and tuple(info.class_names) != data.classes:
        reject_data(folder, f"the classes {_listed(info.class_names)}", f"{data.root} has {_listed(data.classes)}")
    if info.data and info.data != data.fingerprint:
        reject_data(folder, "other images", f"those in {data.root} are given")
    if not info.data and info.classes == "all" and info.images not in (0, data.images):
        reject_data(folder, f"{info.images} images", f"{data.root} has {data.images}")


def check_added_images(folder: Path, info: prompt_file.BoostingInfo, added: Sequence[str]) -> None:
    """Raise `ConfigError` if phase 1 was trained on other unlabelled images than those in the folders that are given."""
    if added and info.added_data != unlabelled.fingerprint(unlabelled.list_images(added), added):
        reject_data(folder, f"{info.added_images} other unlabelled images", f"those in {', '.join(added)} are given")


def reject_data(folder: Path, theirs: str, ours: str) -> None:
    """Raise `ConfigError`: a folder's run was trained on other data.

    Args:
        folder: the run's folder.
        theirs: the data that it was trained on.
        ours: the data that are given, as a clause.
    """
    raise config.ConfigError(
        f"{folder}: trained on {theirs}, but {ours}; expected the same data. Give another --output, or remove the folder"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")


def compare_boosting(recipe: CfgNode, kept_file: Path, options: list[str]) -> None:
    """Raise `ConfigError` if the options differ from the settings of an existing boosting prompt; log its other settings."""
    kept, asked = recipe.clone(), recipe.clone()
    for cfg in (kept, asked):
        cfg.defrost()
        config.merge_kept(cfg, kept_file)
    config.merge_options(asked, options)
    if changed := config.differences(asked, kept):
        raise config.ConfigError(
            f"{kept_file.parent}: the boosting prompt was trained with other settings ({'; '.join(changed)}); expected the "
            "same. Remove the folder to train it again, or give another --output"
        )
    if changed := config.differences(kept, recipe):
        logger.info("Phase 1 was trained with custom settings: %s", "; ".join(changed))


def check_boosting_texts(folder: Path, info: prompt_file.BoostingInfo, asked: CfgNode) -> None:
    """Raise `ConfigError` if phase 1 was trained with another content of the asked file of templates."""
    template = asked.TRAINER.CASPL.TEACHER.TEMPLATE or asked.DATASET.TEMPLATE
    if not templates.is_file(template):
        return
    templates.check_template("DATASET.TEMPLATE", template)
    if info.template != templates.described(template):
        raise config.ConfigError(
            f"{folder}: the boosting prompt was trained with the texts {info.template}, but {templates.described(template)} "
            "is given; expected the same. Remove the folder to train it again, or give another --output"
        )


def boosting_record(path: Path) -> dict[str, Any]:
    """Return what is kept of a boosting prompt with a result: its real sizes, its origin and its identity."""
    group, info = prompt_file.load_boosting(path)
    sizes = {
        f"{tower}_{what}": stack.shape[axis]
        for axis, what in enumerate(("depth", "tokens"))
        for tower, stack in (("text", group.text), ("vision", group.vision))
    }
    kept = dataclasses.asdict(info)
    named = (
        "student",
        "teacher",
        "template",
        "temperature",
        "order",
        "host_words",
        "dataset",
        "classes",
        "epochs",
        "seed",
    )
    record = {name: kept[name] for name in named}
    return {"file": path.name, "sha256": sha256(path), "identity": kept.get("identity", "")} | sizes | record


def same_boosting(kept: Result, folder: Path, boosting: Path) -> bool:
    """Return whether a result was made with a boosting prompt, that is, with one of the same recipe, data and weights.

    Args:
        kept: the result.
        folder: its folder, which has a copy of the prompt if there is a phase 2; version 0.1.0 recorded no identity.
        boosting: the file of the boosting prompt.
    """
    theirs, ours = dict(kept.boosting or {}), boosting_record(boosting)
    if theirs.get("identity") and ours["identity"]:
        return theirs["identity"] == ours["identity"]
    if theirs.get("sha256") == ours["sha256"]:
        return True
    copy = folder / prompt_file.FILE_NAME
    return copy.is_file() and prompt_file.same_prompt(copy, boosting)


def other_data(setting: Setting, kept: Result) -> str:
    """Return the name of a dataset whose images differ from those of a result; empty if none does."""
    for dataset, record in kept.data.items():
        if dataset == setting.dataset or dataset in setting.tested_datasets:
            if record["fingerprint"] != setting.data_of(dataset).fingerprint:
                return dataset
    return ""


def changed_settings(asked: CfgNode, kept: Mapping[str, Any]) -> list[str]:
    """Return the settings in which a configuration differs from a result's, as "KEY: theirs -> ours"."""
    theirs = asked.clone()
    theirs.defrost()
    present = {key for key, _ in config.leaves(asked)}
    for key, value in config.leaves(dict(kept)):
        if key in present:
            *nodes, last = key.split(".")
            node = theirs
            for name in nodes:
                node = node[name]
            node[last] = tuple(value) if isinstance(node[last], tuple) and isinstance(value, list) else value
    return config.differences(config.used(asked), theirs)


def unchanged(setting: Setting, kept: Result, asked: CfgNode, boosting: Path | None, compare_data: bool = True) -> bool:
    """Return whether a result has the asked settings, boosting prompt, texts and, if they are compared, data."""
    same_prompt = boosting is None or same_boosting(kept, setting.folder(kept.trainer), boosting)
    other = compare_data and other_data(setting, kept)
    return same_prompt and not other and not changed_settings(asked, kept.configuration) and _same_texts(kept, asked)


def _same_texts(kept: Result, asked: CfgNode) -> bool:
    """Return whether a template given by the user has the content that a result was made with."""
    return kept.trainer != "ZeroshotCLIP" or kept.template == described_template(asked)


def described_template(cfg: CfgNode) -> str:
    """Return `DATASET.TEMPLATE`, of a file its name and the hash of its content; empty if it is not set."""
    return templates.described(cfg.DATASET.TEMPLATE) if cfg.DATASET.TEMPLATE else ""
