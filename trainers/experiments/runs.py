"""The runs of a protocol: phase 1, phase 2, and the evaluation of trainers without phase 2."""

import importlib.metadata
import logging
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from yacs.config import CfgNode

from .. import config
from ..method import prompt_file
from ..method.identity import local_weights
from ..storage.atomic import remove_parts
from ..storage.locks import locked
from ..training import provenance
from ..training.evaluation import Metrics
from ..training.identity import moved_weights, recorded_weights
from ..training.run import Run
from ..version import __version__
from . import result as results
from .comparison import (
    boosting_record,
    changed_settings,
    check_added_images,
    check_boosting_data,
    check_boosting_identity,
    check_boosting_texts,
    check_boosting_weights,
    compare_boosting,
    described_template,
    is_kept,
    other_data,
    reject_data,
    same_boosting,
    unchanged,
)
from .places import dataset_files
from .result import Result
from .setting import BOOSTING_SEED, Setting
from .setup import assemble

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchvision", "openai-clip", "yacs", "safetensors", "numpy", "Pillow")


def boost(setting: Setting) -> Path:
    """Train phase 1 unless its boosting prompt exists.

    Wait for another process that trains it.

    Args:
        setting: the protocol and the dataset.

    Returns:
        The boosting-prompt file.

    Raises:
        ConfigError: the existing boosting prompt was trained with other settings or on other data.
    """
    folder, path = setting.boosting_dir, setting.boosting_file
    setting.data_of()
    if not path.is_file():
        with locked(folder):
            if not path.is_file():
                Run(setting.configuration("CasPL", BOOSTING_SEED, folder, setting.options_for("CasPL"))).train()
                return path
    custom = check_boosting(setting)
    logger.info("Phase 1 is finished: %s", path)
    if custom:
        logger.info("Phase 1 was trained with custom settings: %s", "; ".join(custom))
    return path


def check_boosting(setting: Setting, compare_data: bool = True) -> list[str]:
    """Check that a setting's boosting prompt was trained as the setting asks.

    Settings, texts and data are compared.

    Args:
        setting: the protocol and the dataset.
        compare_data: whether the data are compared, which reads them.

    Returns:
        Settings of the prompt that differ from the recipe and are not set now.

    Raises:
        ConfigError: it was not; the message names what differs.
    """
    folder, options = setting.boosting_dir, setting.options_for("CasPL")
    info = prompt_file.read_info(setting.boosting_file)
    asked = setting.configuration("CasPL", BOOSTING_SEED, folder, options)
    if compare_data:
        check_boosting_data(folder, info, setting.data_of())
        check_added_images(folder, info, asked.TRAINER.CASPL.IMAGES)
    same = check_boosting_texts(folder, info, asked) | check_boosting_weights(folder, info, asked)
    if not is_kept(folder / "config.yaml"):
        check_boosting_identity(setting, folder, info, options, compare_data)
        return []
    recipe = setting.configuration("CasPL", BOOSTING_SEED, folder)
    return compare_boosting(recipe, folder / "config.yaml", options, same)


def host_configuration(setting: Setting, trainer: str, seed: int, shots: int) -> tuple[CfgNode, Path, Path | None]:
    """Return the configuration of a run with phase 2, and its folder.

    The third item is the boosting prompt's file, if it has one.
    """
    folder = setting.folder(trainer, seed, shots)
    options = ["DATASET.NUM_SHOTS", str(shots), *setting.rules.trained_on]
    boosting = setting.boosting_file if trainer.startswith("CasPL_") else None
    if boosting is not None:
        options += ["TRAINER.CASPL.CHECKPOINT", str(boosting)]
    asked = setting.configuration(trainer, seed, folder, [*options, *setting.options_for(trainer)])
    if asked.TEST.NO_TEST:
        raise config.ConfigError("TEST.NO_TEST: True; expected False, a protocol needs the figures of the test")
    return asked, folder, boosting


def complete(setting: Setting, kept: Result | None) -> bool:
    """Return whether a result has the figures of all target datasets."""
    return kept is not None and set(setting.tested_datasets) <= set(kept.targets)


def read_finished(setting: Setting, trainer: str, seed: int | None, shots: int | None) -> Result:
    """Return the result of a run that another process has finished.

    Args:
        setting: the protocol and the dataset.
        trainer: the run's trainer.
        seed: seed of phase 2; None without phase 2.
        shots: images per class; None without phase 2.

    Raises:
        ValueError: no result exists, or it belongs to other settings, data or another boosting prompt.
    """
    if seed is None or shots is None:
        asked, _, boosting = untrained_configuration(setting, trainer)
        folder = setting.folder(trainer)
        kept = measured(setting, folder, asked, boosting)
    else:
        asked, folder, boosting = host_configuration(setting, trainer, seed, shots)
        kept = finished(setting, asked, folder, boosting)
    if kept is None or not complete(setting, kept):
        raise ValueError(f"{folder / results.FILE_NAME}: not written; the job ended before")
    return kept


def host_run(setting: Setting, trainer: str, seed: int, shots: int) -> Result:
    """Train and measure as the protocol describes; a finished run is read.

    Args:
        setting: the protocol and the dataset.
        trainer: a host, or `CasPL_<Host>`, for which phase 1 must be finished.
        seed: seed of the few-shot draw and of phase 2.
        shots: images per class.

    Raises:
        ConfigError: the folder has a run with other settings, another boosting prompt or other data.
    """
    asked, folder, boosting = host_configuration(setting, trainer, seed, shots)
    kept = finished(setting, asked, folder, boosting)  # without the lock: the disk may be read-only
    if kept is not None and complete(setting, kept):
        logger.info("%s is finished: %s", trainer, folder)
        return kept
    with locked(folder):
        kept = finished(setting, asked, folder, boosting)
        if kept is not None and complete(setting, kept):
            return kept
        start = time.monotonic()
        first = Run(asked).train()
        evaluations = _measure(setting, trainer, folder, first)
        seconds = time.monotonic() - start if kept is None else kept.seconds
        return _save(setting, folder, trainer, evaluations, seconds, boosting, seed, shots)


def untrained(setting: Setting, trainer: str) -> Result:
    """Measure a trainer without phase 2.

    A result with the same settings, boosting prompt and data is read.

    Args:
        setting: the protocol and the dataset.
        trainer: "ZeroshotCLIP", or "CasPL" for CLIP with the boosting prompt alone.
    """
    folder = setting.folder(trainer)
    asked, runs, boosting = untrained_configuration(setting, trainer)
    if (kept := measured(setting, folder, asked, boosting)) is not None:
        logger.info("%s is finished: %s", trainer, folder)
        return kept
    with locked(folder):
        if (kept := measured(setting, folder, asked, boosting)) is not None:
            return kept
        start = time.monotonic()
        evaluations = _measure(setting, trainer, runs, Run(asked).evaluate(runs))
        return _save(setting, folder, trainer, evaluations, time.monotonic() - start, boosting, configuration=asked)


def untrained_configuration(setting: Setting, trainer: str) -> tuple[CfgNode, Path, Path | None]:
    """Return the configuration of an evaluation without phase 2, and what it loads.

    That is the folder of a run, and the boosting prompt.
    """
    boosting = setting.boosting_file if trainer == "CasPL" else None
    runs = setting.folder(trainer) if boosting is None else setting.boosting_dir
    return _evaluation(setting, trainer, runs, setting.rules.trained_on), runs, boosting


def measured(
    setting: Setting, folder: Path, asked: CfgNode, boosting: Path | None, compare_data: bool = True
) -> Result | None:
    """Return an earlier evaluation's result, or None.

    It must have the same settings, boosting prompt, texts and data.
    """
    kept = _kept_result(folder)
    valid = kept is not None and complete(setting, kept) and unchanged(setting, kept, asked, boosting, compare_data)
    return kept if valid else None


def finished(
    setting: Setting, asked: CfgNode, folder: Path, boosting: Path | None, compare_data: bool = True
) -> Result | None:
    """Return the result of a finished run, or None.

    Args:
        setting: the protocol and the dataset.
        asked: the configuration of the run.
        folder: its folder.
        boosting: the boosting-prompt file; None for a host alone.
        compare_data: whether the data are compared, which reads them.

    Raises:
        ConfigError: the run was made with other settings, another boosting prompt or other data.
        ResultError: the result cannot be read.
    """
    kept = _kept_result(folder)
    if kept is None:
        return None
    same, changed = changed_settings(asked, kept, folder)
    config.check_kept(asked, folder / "config.yaml", same)
    if changed:
        raise config.ConfigError(
            f"{folder}: holds a run with other settings ({'; '.join(changed[:5])}); expected the same. Remove the folder, or "
            "give another --output"
        )
    if compare_data and (images := other_data(setting, kept)):
        reject_data(folder, f"other images of {images}", f"{setting.data} is given")
    if boosting is not None and not same_boosting(kept, folder, boosting, setting, compare_data):
        raise config.ConfigError(
            f"{folder}: made with another boosting prompt than {boosting}; expected the same. Remove the folder to make the "
            "run again, or give another --output"
        )
    if not kept.data:
        logger.warning(
            "%s: made by version 0.1.0, which did not record its data; taken as a result of %s", folder, setting.data
        )
    return kept


def _kept_result(folder: Path) -> Result | None:
    path = folder / results.FILE_NAME
    return results.read(path) if path.exists() else None


def _measure(setting: Setting, trainer: str, folder: Path, first: Metrics | None) -> dict[str, dict[str, float]]:
    """Return {test set or target: metrics}; `first` is the metrics on the classes trained on."""
    if first is None:
        raise config.ConfigError("TEST.NO_TEST: True; expected False, a protocol needs the figures of the test")
    names = iter(setting.rules.tests)
    found = {next(names): dict(first)}
    for name in names:
        found[name] = _tested(setting, trainer, folder, setting.rules.tests[name])
    for dataset in setting.tested_datasets:
        found[dataset] = _tested(setting, trainer, folder, setting.rules.target_options or (), dataset)
    return found


def _tested(
    setting: Setting, trainer: str, folder: Path, options: Sequence[str], dataset: str = ""
) -> dict[str, float]:
    metrics = Run(_evaluation(setting, trainer, folder, options, dataset)).evaluate(folder)
    return dict(metrics or {})


def _evaluation(setting: Setting, trainer: str, folder: Path, options: Sequence[str], dataset: str = "") -> CfgNode:
    """Return the configuration that tests the run in `folder`, which is the run's, on a dataset's test images."""
    if trainer == "CasPL" and "DATASET.SUBSAMPLE_CLASSES" not in options:  # all, independently of phase 1's classes
        options = [*options, "TRAINER.CASPL.CLASSES", "all"]
    if (folder / "config.yaml").is_file():
        other = [dataset_files()[dataset]] if dataset else []
        places = ["DATASET.ROOT", str(setting.data), *setting.kept_features(trainer), *_moved(setting, trainer, folder)]
        return assemble(other, [*places, *options], evaluated=folder)
    options = [*setting.options_for(trainer), *options]  # nothing was trained: zero-shot CLIP
    return setting.configuration(trainer, BOOSTING_SEED, folder, options, dataset)


def _moved(setting: Setting, trainer: str, folder: Path) -> list[str]:
    """Return KEY VALUE pairs of phase 1's weight files under their present names; runs of phase 2 have just written theirs."""
    if trainer != "CasPL":
        return []
    asked = setting.configuration(trainer, BOOSTING_SEED, folder, setting.options_for(trainer))
    return [item for key in sorted(moved_weights(asked, folder)) for item in (key, config.value_of(asked, key))]


def _save(
    setting: Setting,
    folder: Path,
    trainer: str,
    evaluations: dict[str, dict[str, float]],
    seconds: float,
    boosting: Path | None,
    seed: int | None = None,
    shots: int | None = None,
    configuration: CfgNode | None = None,
) -> Result:
    """Write and return a result; the configuration and the ledger are those in `folder` unless nothing was trained."""
    if configuration is None:
        kept, ledger = yaml.safe_load((folder / "config.yaml").read_text()), provenance.kept(folder)
    else:
        kept = yaml.safe_load(configuration.dump())
        ledger = [] if boosting is None else [prompt_file.boosting_item(prompt_file.read_info(boosting))]
    weights = recorded_weights(folder) if configuration is None else local_weights(configuration)
    made = Result(
        protocol=setting.protocol,
        dataset=setting.dataset,
        trainer=trainer,
        evaluations=evaluations,
        seed=seed,
        shots=shots,
        seconds=seconds,
        boosting=None if boosting is None else boosting_record(boosting),
        data={name: setting.data_of(name).record for name in (setting.dataset, *setting.tested_datasets)},
        weights={key: fingerprint for key, fingerprint in weights.items() if fingerprint not in ("", "none")},
        configuration=kept,
        ledger=ledger,
        template="" if configuration is None else described_template(configuration),
        varied=dict(setting.varied_of(trainer)),
        versions=versions(),
    )
    remove_parts(folder)
    made.write(folder)
    return made


def versions() -> dict[str, str]:
    """Return {package: version} of the software in use."""
    found = {"caspl": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
