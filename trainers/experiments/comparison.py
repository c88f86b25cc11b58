"""What a finished run was made with, compared with what is asked for now."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from .. import config
from ..method import prompt_file, templates, unlabelled
from ..method.identity import TEACHER, compare_weights
from ..storage.atomic import sha256
from ..training.identity import recorded_weights
from .result import FILE_NAME, Result
from .setting import Data, Setting

logger = logging.getLogger(__name__)


def check_boosting_data(folder: Path, info: prompt_file.BoostingInfo, data: Data) -> None:
    """Raise `ConfigError` if phase 1 was trained on other images or classes.

    Files of 0.1.0 have no fingerprint.
    """
    if info.classes == "all" and tuple(info.class_names) != data.classes:
        reject_data(folder, f"the classes {_listed(info.class_names)}", f"{data.root} has {_listed(data.classes)}")
    if info.data and info.data != data.fingerprint:
        reject_data(folder, "other images", f"those in {data.root} are given")
    if not info.data and info.classes == "all" and info.images not in (0, data.images):
        reject_data(folder, f"{info.images} images", f"{data.root} has {data.images}")


def check_added_images(folder: Path, info: prompt_file.BoostingInfo, added: Sequence[str]) -> None:
    """Raise `ConfigError` if phase 1 was trained on other unlabelled images.

    They are compared with those in the folders that are given.
    """
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


def check_boosting_weights(folder: Path, info: prompt_file.BoostingInfo, asked: CfgNode) -> set[str]:
    """Compare student and teacher of a boosting prompt with the files that are given.

    Returns:
        The keys whose files have the same content, also under another name.

    Raises:
        ConfigError: a file has other content.
    """
    found = recorded_weights(folder)
    same, changed = compare_weights(asked, found | {TEACHER: found[TEACHER] or info.teacher_weights})
    if changed:
        raise config.ConfigError(
            f"{folder}: the boosting prompt was trained with other weights ({'; '.join(changed)}); expected the same. Remove "
            "the folder to train it again, or give another --output"
        )
    return same


def compare_boosting(recipe: CfgNode, kept_file: Path, options: list[str], same: Collection[str]) -> list[str]:
    """Compare options with the settings of an existing boosting prompt.

    Returns:
        Its other settings that differ from the recipe's.

    Raises:
        ConfigError: the options differ.
    """
    kept = config.with_defaults(recipe)
    config.merge_kept(kept, kept_file)
    asked = kept.clone()
    config.merge_options(asked, options)
    if changed := config.differences(config.used(asked), kept, same):
        raise config.ConfigError(
            f"{kept_file.parent}: the boosting prompt was trained with other settings ({'; '.join(changed)}); expected the "
            "same. Remove the folder to train it again, or give another --output"
        )
    return config.differences(config.used(kept), recipe)


def is_kept(config_file: Path) -> bool:
    """Return whether a run's configuration exists and was not emptied."""
    return config_file.is_file() and bool(config.read_yaml(config_file))


def check_boosting_identity(
    setting: Setting, folder: Path, info: prompt_file.BoostingInfo, options: Sequence[str], compare_data: bool
) -> None:
    """Compare options with a boosting prompt whose configuration is lost.

    Without options, or in a file that records no identity (imported, or of 0.1.0), nothing can differ or be compared.

    Raises:
        ConfigError: phase 1 with these options is another one.
    """
    if not options or not compare_data:
        return
    if not info.identity:
        logger.warning("%s: no config.yaml and no identity; the settings of phase 1 are not compared", folder)
    elif (planned := setting.boosting_identity()) and planned != info.identity:
        raise config.ConfigError(
            f"{folder}: its config.yaml is missing or empty, and the boosting prompt was trained with other settings than "
            f"{' '.join(options)[:500]}; expected the same. Remove the folder to train it again, or give another --output"
        )


def check_boosting_texts(folder: Path, info: prompt_file.BoostingInfo, asked: CfgNode) -> set[str]:
    """Compare the asked file of templates with the one of phase 1.

    Returns:
        The key of the file, wherever it is now; empty without a file.

    Raises:
        ConfigError: it has other content.
    """
    template = asked.TRAINER.CASPL.TEACHER.TEMPLATE or asked.DATASET.TEMPLATE
    if not templates.is_file(template):
        return set()
    templates.check_template("DATASET.TEMPLATE", template)
    if info.template != templates.described(template):
        raise config.ConfigError(
            f"{folder}: the boosting prompt was trained with the texts {info.template}, but {templates.described(template)} "
            "is given; expected the same. Remove the folder to train it again, or give another --output"
        )
    return {"TRAINER.CASPL.TEACHER.TEMPLATE" if asked.TRAINER.CASPL.TEACHER.TEMPLATE else "DATASET.TEMPLATE"}


def boosting_record(path: Path) -> dict[str, Any]:
    """Return what is kept of a boosting prompt with a result.

    That is its real sizes, its origin and its identity.
    """
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


def same_boosting(kept: Result, folder: Path, boosting: Path, setting: Setting, compare_data: bool = True) -> bool:
    """Return whether a result was made with a boosting prompt.

    That is, with one of the same recipe, data and weights.

    Args:
        kept: the result.
        folder: its folder, which has a copy of the prompt if there is a phase 2; version 0.1.0 recorded no identity.
        boosting: the file of the boosting prompt; where it does not exist, the prompt that phase 1 would learn.
        setting: the protocol and the dataset.
        compare_data: whether the data may be read, which an identity that is not recorded needs.
    """
    theirs = dict(kept.boosting or {})
    if not boosting.is_file():
        planned = setting.boosting_identity() if compare_data and theirs.get("identity") else ""
        return not planned or planned == theirs["identity"]
    ours = boosting_record(boosting)
    if theirs.get("identity") and ours["identity"]:
        return theirs["identity"] == ours["identity"]
    if theirs.get("sha256") == ours["sha256"]:
        return True
    copy = folder / prompt_file.FILE_NAME
    return copy.is_file() and prompt_file.same_prompt(copy, boosting)


def other_data(setting: Setting, kept: Result) -> str:
    """Return the name of a dataset whose images differ from those of a result.

    Empty if none does.
    """
    for dataset, record in kept.data.items():
        if dataset == setting.dataset or dataset in setting.tested_datasets:
            if record["fingerprint"] != setting.data_of(dataset).fingerprint:
                return dataset
    return ""


def _weights_of(kept: Result, folder: Path) -> Mapping[str, str]:
    """Return {key: SHA-256} of the weight files that a result was made with; its run's where it records none."""
    return kept.weights or recorded_weights(folder)


def changed_settings(asked: CfgNode, kept: Result, folder: Path) -> tuple[set[str], list[str]]:
    """Compare a configuration with that of a result.

    Weight files are compared by their content.

    Returns:
        The keys of files with the same content, also under another name, and what differs, as "KEY: theirs -> ours".
    """
    same, changed = compare_weights(asked, _weights_of(kept, folder))
    if kept.template and _same_texts(kept, asked):
        same.add("DATASET.TEMPLATE")
    if kept.version == 1 and not kept.configuration:  # of version 0.1.0, whose config.yaml is compared
        return same, changed
    changed += config.compare_recorded(asked, kept.configuration, str(folder / FILE_NAME), same)
    known = dict(config.leaves(asked))
    newer = [key for key, _ in config.leaves(dict(kept.configuration)) if kept.version > 1 and key not in known]
    return same, changed + [f"{key}: not a key of this version" for key in newer]


def unchanged(setting: Setting, kept: Result, asked: CfgNode, boosting: Path | None, compare_data: bool = True) -> bool:
    """Return whether a result has the asked settings, boosting prompt and texts.

    The data are compared, too, if they are given.
    """
    folder = setting.folder(kept.trainer)
    same_prompt = boosting is None or same_boosting(kept, folder, boosting, setting, compare_data)
    other = compare_data and other_data(setting, kept)
    return same_prompt and not other and not changed_settings(asked, kept, folder)[1] and _same_texts(kept, asked)


def _same_texts(kept: Result, asked: CfgNode) -> bool:
    """Return whether a template given by the user has the content that a result was made with."""
    return kept.trainer != "ZeroshotCLIP" or kept.template == described_template(asked)


def described_template(cfg: CfgNode) -> str:
    """Return `DATASET.TEMPLATE`, of a file its name and the hash of its content.

    Empty if it is not set.
    """
    return templates.described(cfg.DATASET.TEMPLATE) if cfg.DATASET.TEMPLATE else ""
