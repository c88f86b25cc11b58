"""A grid of runs: its jobs, phase 1 before the runs that need it; the results, and the failures."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import variations
from .protocols import Scope
from .result import Result
from .runs import boost, host_run, read_finished, untrained
from .setting import Setting

logger = logging.getLogger(__name__)

BOOST = "phase 1"
UNTRAINED = ("ZeroshotCLIP", "CasPL")  # without phase 2; "CasPL" is CLIP with the boosting prompt alone


@dataclass(frozen=True)
class Job:
    """One piece of work for this process or another.

    Attributes:
        setting: the protocol and the dataset.
        trainer: `BOOST`, or the trainer of a result.
        seed: seed of phase 2; None without phase 2.
        shots: images per class; None without phase 2.
    """

    setting: Setting
    trainer: str
    seed: int | None = None
    shots: int | None = None

    @property
    def place(self) -> Path:
        """What it writes: phase 1's prompt file, or the folder of a result."""
        if self.trainer == BOOST:
            return self.setting.boosting_file
        return self.setting.folder(self.trainer, self.seed, self.shots)

    @property
    def needs(self) -> Path | None:
        """The boosting prompt that must exist before."""
        return self.setting.boosting_file if self.trainer.startswith("CasPL") else None

    def __call__(self) -> Result | None:
        """Do the work unless it is finished; return the result, None for phase 1."""
        if self.trainer == BOOST:
            boost(self.setting)
            return None
        if self.seed is None or self.shots is None:
            return untrained(self.setting, self.trainer)
        return host_run(self.setting, self.trainer, self.seed, self.shots)

    def work(self) -> None:
        """Do the work in another process, which hands its result over in `result.json`."""
        self()

    def outcome(self) -> Result | None:
        """Return the result that another process has written; None for phase 1.

        Raises:
            ValueError: there is none, or it belongs to other settings or data.
        """
        if self.trainer == BOOST:
            if not self.setting.boosting_file.is_file():
                raise ValueError(f"{self.setting.boosting_file}: not written; the job ended before")
            return None
        return read_finished(self.setting, self.trainer, self.seed, self.shots)

    def __str__(self) -> str:
        what = f"{self.setting.protocol} {self.setting.dataset} {self.trainer}"
        if self.seed is not None:
            what += f" shots {self.shots} seed {self.seed}"
        varied = self.setting.varied_of("CasPL" if self.trainer == BOOST else self.trainer)
        return f"{what} ({variations.label(varied)})" if varied else what


@dataclass(frozen=True)
class Plan:
    """A protocol's part of a grid.

    Attributes:
        protocol: its name.
        scope: datasets, hosts, seeds and numbers of shots.
        targets: datasets to test on, where the protocol does; empty: its default.
    """

    protocol: str
    scope: Scope
    targets: list[str]

    def jobs(self, shared: Setting) -> Iterator[Job]:
        """Yield all jobs in an order in which they can be done one by one.

        Args:
            shared: folders and options of the grid.
        """
        for dataset in self.scope.datasets:
            setting = shared.of(dataset, self.protocol, self.targets)
            yield from (Job(setting, trainer) for trainer in (BOOST, *UNTRAINED))
            for host in self.scope.hosts:
                for shots in self.scope.shots:
                    for seed in self.scope.seeds:
                        yield from (Job(setting, trainer, seed, shots) for trainer in (host, f"CasPL_{host}"))


class Failures(list):
    """(job, error) pairs.

    Jobs whose boosting prompt could not be made are skipped and not listed.
    """

    def add(self, job: Job, error: BaseException) -> None:
        """Add a failed job."""
        logger.error("Failed: %s: %s", job, str(error).strip())
        self.append((job, error))

    def hopeless(self, job: Job) -> bool:
        """Return whether a job needs a boosting prompt that could not be made."""
        return job.needs in {failed.setting.boosting_file for failed, _ in self if failed.trainer == BOOST}


def one_by_one(jobs: list[Job], failures: Failures) -> list[Result]:
    """Do all jobs in this process, and return their results.

    Args:
        jobs: the jobs, in order.
        failures: failed jobs are added to it; the others are still done.
    """
    results = []
    for job in jobs:
        if failures.hopeless(job):
            continue
        try:
            results.append(job())
        except Exception as error:  # one failed run must not end a grid of days; the traceback is in the run's log
            failures.add(job, error)
    return [result for result in results if result is not None]


def unique(jobs: Iterable[Job]) -> list[Job]:
    """Return jobs without those that write the same files.

    Protocols and variations share phase 1 and baselines.
    """
    found: dict[Path, Job] = {}
    for job in jobs:
        found.setdefault(job.place, job)
    return list(found.values())


class Grid:
    """All runs of some plans.

    Args:
        plans: the parts of the grid.
        shared: folders and options of all runs, once for each variation; dataset and protocol do not count.

    Raises:
        ConfigError: an option that none of the trainers reads.
    """

    def __init__(self, plans: list[Plan], *shared: Setting):
        hosts = dict.fromkeys(host for plan in plans for host in plan.scope.hosts)
        for setting in shared:
            setting.check_options(["CasPL", *(name for host in hosts for name in (host, f"CasPL_{host}"))])
        self.results: list[Result] = []
        self.failures = Failures()
        self.jobs = unique(job for plan in plans for each in shared for job in plan.jobs(each))

    def run(self, how: Callable[[list[Job], Failures], list[Result]] = one_by_one) -> None:
        """Do all jobs that are not finished; `results` and `failures` are then filled."""
        self.results = how(self.jobs, self.failures)
