"""What a command would run: each job's folder, its state on disk, and its cost. Nothing is written and no data are read."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from yacs.config import CfgNode

from ..backbones import published_hashes
from ..config import ConfigError, check_kept
from ..method import prompt_file
from ..method.prompt_file import CheckpointError
from ..method.teachers import teacher_names
from ..training.checkpoints import PROGRESS
from ..training.identity import moved_weights
from ..training.run import has_finished_epoch, own_class
from . import cost, runs
from .cost import Part
from .grid import BOOST, Job
from .protocols import is_miniature
from .result import ResultError
from .setting import BOOSTING_SEED, Setting
from .sizes import size_of, tested

logger = logging.getLogger(__name__)

FINISHED, UNFINISHED, NEW = "finished", "unfinished", "new"


@dataclass(frozen=True)
class Planned:
    """A job, and what exists of it.

    Attributes:
        what: the job in words.
        folder: where it writes.
        state: `FINISHED` (it would be read), `UNFINISHED` (it would resume), `NEW`, or "blocked" with the reason.
        parts: its cost; empty if it is finished.
    """

    what: str
    folder: Path
    state: str
    parts: tuple[Part, ...] = ()


def planned(job: Job, measured: bool = False, known: cost.Known | None = None) -> Planned:
    """Return what exists of a job, and what it would cost.

    Args:
        job: the job.
        measured: also measure the rate of each part on this device.
        known: image features that earlier jobs of the plan keep; those of this job are added.
    """
    setting, boost = job.setting, job.trainer == BOOST
    folder = setting.boosting_dir if boost else setting.folder(job.trainer, job.seed, job.shots)
    try:
        found = state(job)
    except (ConfigError, ResultError, CheckpointError) as error:
        found = f"blocked: {error}"
    if found in (UNFINISHED, NEW):
        made = (
            cost.phase_1(setting, measured, known)
            if boost
            else cost.costs(setting, job.trainer, job.seed, job.shots, measured, known)
        )
        return Planned(str(job), folder, found, tuple(made))
    return Planned(str(job), folder, found)


def state(job: Job, compare_data: bool = False) -> str:
    """Return `FINISHED`, `UNFINISHED` or `NEW`.

    Args:
        job: the job.
        compare_data: also compare the data of a finished job with the given ones, which reads them.

    Raises:
        ConfigError: a setting is wrong, or the job's folder holds a run with other settings or data.
        ResultError, CheckpointError: a finished job's file is damaged.
    """
    if job.trainer == BOOST:
        return _state_of_boosting(job.setting, compare_data)
    return _state_of_run(job, compare_data)


def _state_of_boosting(setting: Setting, compare_data: bool) -> str:
    folder, options = setting.boosting_dir, setting.options_for("CasPL")
    if not setting.boosting_file.is_file():
        cfg = setting.configuration("CasPL", BOOSTING_SEED, folder, options)
        return _unfinished(cfg, folder)
    runs.check_boosting(setting, compare_data)
    return FINISHED


def _state_of_run(job: Job, compare_data: bool) -> str:
    setting = job.setting
    if job.seed is None or job.shots is None:
        if job.needs is not None and not job.needs.is_file():
            return NEW
        asked, _, boosting = runs.untrained_configuration(setting, job.trainer)
        folder = setting.folder(job.trainer)
        kept = runs.measured(setting, folder, asked, boosting, compare_data)
        return FINISHED if kept is not None else NEW
    asked, folder, boosting = runs.host_configuration(setting, job.trainer, job.seed, job.shots)
    found = runs.finished(setting, asked, folder, boosting, compare_data)
    if found is not None and runs.complete(setting, found):
        return FINISHED
    return _unfinished(asked, folder)


def _unfinished(cfg: CfgNode, folder: Path) -> str:
    """Return the state of a folder without a result.

    Raises:
        ConfigError: it holds a run with other settings.
    """
    if not has_finished_epoch(folder):
        return NEW
    check_kept(cfg, folder / "config.yaml", moved_weights(cfg, folder))
    return UNFINISHED


def planned_run(cfg: CfgNode, evaluated: str = "", measured: bool = False) -> Planned:
    """Return what exists of a single run, and what it would cost.

    Args:
        cfg: its configuration.
        evaluated: the folder of the run that is only evaluated; empty for training.
        measured: also measure the rate of each part on this device.
    """
    folder, name = Path(cfg.OUTPUT_DIR), cfg.TRAINER.NAME
    trains = not evaluated and name != "ZeroshotCLIP"
    what = f"{'train' if trains else 'evaluate'} {name} on {cfg.DATASET.NAME}"
    try:
        state = _state_of_single(cfg, folder) if trains else NEW
    except ConfigError as error:
        return Planned(what, folder, f"blocked: {error}")
    if state == FINISHED or own_class(name) is None:
        return Planned(what, folder, state)
    size = size_of(cfg.DATASET.NAME, Path(cfg.DATASET.ROOT), folder)
    tests = [] if cfg.TEST.NO_TEST else [tested(cfg.DATASET.NAME, size, cfg.DATASET.SUBSAMPLE_CLASSES)]
    boosting = _boosting_of(cfg) if name.startswith("CasPL_") else None
    return Planned(what, folder, state, tuple(cost.run_costs(cfg, boosting, size if trains else None, tests, measured)))


def _state_of_single(cfg: CfgNode, folder: Path) -> str:
    state = _unfinished(cfg, folder)
    return FINISHED if state == UNFINISHED and not (folder / PROGRESS).is_file() else state


def _boosting_of(cfg: CfgNode) -> CfgNode:
    """Return the sizes of the boosting prompt of a cascaded run as a configuration."""
    group, _ = prompt_file.load_boosting(prompt_file.find_boosting(cfg.TRAINER.CASPL.CHECKPOINT))
    made = cfg.clone()
    made.defrost()
    node = made.TRAINER.CASPL
    (node.DEPTH_TEXT, node.N_CTX_TEXT, _), (node.DEPTH_VISION, node.N_CTX_VISION, _) = (
        group.text.shape,
        group.vision.shape,
    )
    return made


def surroundings(jobs: Sequence[Job]) -> list[str]:
    """Return a line for each dataset and each of OpenAI's models that jobs need: whether it exists."""
    lines = []
    settings = {job.setting.dataset: job.setting for job in jobs}
    for name in dict.fromkeys(each for one in settings.values() for each in (one.dataset, *one.tested_datasets)):
        setting = next(iter(settings.values()))
        kind = DATASET_REGISTRY.get(setting.registered_name(name))
        folder = kind.located(setting.data, setting.output).folder
        missing = "would be rendered" if is_miniature(name) else "missing"
        lines.append(f"data       {name}: {folder} {'exists' if folder.is_dir() else missing}")
    names = [cfg.MODEL.BACKBONE.NAME for cfg in _boosting_cfgs(settings.values())]
    names += [name for cfg in _boosting_cfgs(settings.values()) for name in teacher_names(cfg.TRAINER.CASPL.TEACHER)]
    for name in dict.fromkeys(names):
        if name in published_hashes():
            path, _ = published_hashes()[name]
            lines.append(f"weights    {name}: {path} {'exists' if path.is_file() else 'would be downloaded'}")
    return lines


def _boosting_cfgs(settings: Iterable[Setting]) -> list[CfgNode]:
    return [
        each.configuration("CasPL", BOOSTING_SEED, each.boosting_dir, each.options_for("CasPL")) for each in settings
    ]


def by_kind(plans: Iterable[Planned]) -> list[Part]:
    """Return the cost of all plans, added up for each kind of work."""
    kinds: dict[str, list[Part]] = {}
    for plan in plans:
        for part in plan.parts:
            kinds.setdefault(part.name, []).append(part)
    return [_added(name, parts) for name, parts in kinds.items()]


def _added(name: str, parts: Sequence[Part]) -> Part:
    times = f", {len(parts)} runs" if len(parts) > 1 else ""
    return cost.total(parts, f"{name}{times}")
