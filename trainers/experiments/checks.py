"""What is checked before the first job of a command starts: all settings, existing folders and data."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from ..config import ConfigError
from .dry_run import FINISHED, state
from .grid import Job
from .protocols import is_miniature
from .setting import Setting


def check_jobs(jobs: Sequence[Job]) -> None:
    """Check the settings of all jobs, and the files in their folders, before anything is written.

    Raises:
        ConfigError: names every problem, each once.
    """
    _raise(_problems(_check_job, _distinct(jobs)))


def all_finished(jobs: Sequence[Job]) -> bool:
    """Return whether the results of all jobs exist, so that nothing will be written."""
    return all(state(job) == FINISHED for job in jobs)


def _check_job(job: Job) -> None:
    if state(job) == FINISHED:
        return
    output = job.setting.output
    existing = next((path for path in (job.place, *job.place.parents) if path.is_dir()), output)
    if not os.access(existing, os.W_OK):
        raise ConfigError(
            f"--output: {output} cannot be written to, and not all of its runs are finished; expected a folder on a writable "
            "disk. Give another one"
        )


def check_data(jobs: Sequence[Job]) -> None:
    """Read the lists of images of all jobs, and compare them with those of finished jobs.

    Nothing is written unless every folder exists; embedded datasets are then rendered.

    Raises:
        ConfigError: names every dataset that is missing, damaged or not the one of a finished job.
    """
    named = {(str(each.data), name): (each, name) for each, name in _datasets(jobs)}
    missing = [pair for pair in named.values() if not _exists(*pair)]
    for pairs in (missing, _datasets(jobs)):
        _raise(_problems(lambda pair: pair[0].data_of(pair[1]), pairs))
    _raise(_problems(lambda job: state(job, compare_data=True), [job for job in jobs if job.place.exists()]))


def _distinct(jobs: Sequence[Job]) -> Iterator[Job]:
    """Yield the jobs that differ in more than seed and shots, or have a folder."""
    seen = set()
    for job in jobs:
        key = (id(job.setting), job.trainer)
        if key not in seen or job.place.parent.exists():
            yield job
        seen.add(key)


def _datasets(jobs: Sequence[Job]) -> Iterator[tuple[Setting, str]]:
    settings = {id(job.setting): job.setting for job in jobs}
    for each in settings.values():
        yield from ((each, name) for name in (each.dataset, *each.tested_datasets))


def _exists(setting: Setting, name: str) -> bool:
    kind = DATASET_REGISTRY.get(setting.registered_name(name))
    return is_miniature(name) or Path(kind.located(setting.data, setting.output).folder).is_dir()


def _problems(check: Callable, things: Iterable) -> list[str]:
    """Return what is wrong with things, each message once."""
    found: dict[str, None] = {}
    for each in things:
        try:
            check(each)
        except (ValueError, OSError) as error:
            found[str(error).strip()] = None
    return list(found)


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise ConfigError("; ".join(problems))
