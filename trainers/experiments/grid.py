"""A grid of runs: what has to be run, phase 1 ahead of what needs it; what came out, and what failed."""

import statistics
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from .. import config
from .protocols import PROTOCOLS
from .runs import Setting, boost, host_run, untrained

LABELS = {"ZeroshotCLIP": "CLIP, zero-shot", "CasPL": "CLIP with the boosting prompt alone"}
BOOST = "phase 1"


@dataclass(frozen=True)
class Job:
    """One thing to do, in this process or in another: phase 1 (`trainer` is `BOOST`), or a result of a trainer.

    Attributes:
        seed, shots: None for what has no phase 2.
    """

    setting: Setting
    trainer: str
    seed: int | None = None
    shots: int | None = None

    @property
    def needs(self) -> Path | None:
        """The boosting prompt that must be there first."""
        return self.setting.boosting_file if self.trainer.startswith("CasPL") else None

    def __call__(self) -> dict | None:
        """Do it, unless it is done; the result, None of phase 1."""
        if self.trainer == BOOST:
            boost(self.setting)
            return None
        if self.seed is None:
            return untrained(self.setting, self.trainer)
        return host_run(self.setting, self.trainer, self.seed, self.shots)

    def __str__(self) -> str:
        what = f"{self.setting.protocol} {self.setting.dataset} {self.trainer}"
        return what if self.seed is None else f"{what} shots {self.shots} seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A protocol's part of the grid; the attributes' product is run."""

    protocol: str
    datasets: list[str]
    hosts: list[str]
    seeds: list[int]
    shots: list[int]
    targets: list[str]

    def jobs(self, data: Path, output: Path, options: list[str]) -> Iterator[Job]:
        """Everything, in the order to do it one by one."""
        for dataset in self.datasets:
            setting = Setting(dataset, data, output, options, self.protocol, self.targets)
            yield from (Job(setting, trainer) for trainer in (BOOST, "ZeroshotCLIP", "CasPL"))
            for host in self.hosts:
                for shots in self.shots:
                    for seed in self.seeds:
                        yield from (Job(setting, trainer, seed, shots) for trainer in (host, f"CasPL_{host}"))


class Failures(list):
    """(job, error) pairs; a job that needs a boosting prompt which could not be made is left out, and not listed."""

    def add(self, job: Job, error: BaseException) -> None:
        """A job that failed."""
        self.append((job, error))

    def hopeless(self, job: Job) -> bool:
        """Whether a job needs what failed."""
        return job.needs in {failed.setting.boosting_file for failed, _ in self if failed.trainer == BOOST}


def one_by_one(jobs: list[Job], failures: Failures) -> list[dict]:
    """Do all jobs in this process; what fails is added to `failures`, and the rest goes on."""
    results = []
    for job in jobs:
        if failures.hopeless(job):
            continue
        try:
            results.append(job())
        except Exception as error:  # a grid of days must not end because of one run
            traceback.print_exc(file=sys.stderr)
            failures.add(job, error)
    return [result for result in results if result is not None]


class Grid:
    """All runs of some plans.

    Args:
        data, output: folders; options: KEY VALUE pairs for all runs.

    Raises:
        ConfigError: an option that none of the trainers reads.
    """

    def __init__(self, plans: list[Plan], data: Path, output: Path, options: list[str]):
        hosts = dict.fromkeys(host for plan in plans for host in plan.hosts)
        Setting("", data, output, options).check_options(["CasPL", *hosts])
        self.jobs, prompts = [], set()
        for job in (job for plan in plans for job in plan.jobs(data, output, options)):
            if job.trainer == BOOST:
                if job.setting.boosting_file in prompts:  # another protocol's, with the same recipe
                    continue
                prompts.add(job.setting.boosting_file)
            self.jobs.append(job)
        self.results, self.failures = [], Failures()

    def run(self, how: Callable[[list[Job], Failures], list[dict]] = one_by_one) -> None:
        """Do everything that is not done yet."""
        self.results = how(self.jobs, self.failures)

    def report(self, summarise: Callable[[list[str]], None]) -> None:
        """Print a table for each dataset, then what `summarise` prints of the protocols, then the failures.

        Raises:
            ConfigError: there were failures.
        """
        for key in dict.fromkeys((result["protocol"], result["dataset"]) for result in self.results):
            results = [result for result in self.results if (result["protocol"], result["dataset"]) == key]
            print(f"\n{PROTOCOLS[key[0]].title}, {key[1]}\n{tables(results, 'github', spread=True)}\n")
        summarise(list(dict.fromkeys(result["protocol"] for result in self.results)))
        for job, error in self.failures:
            print(f"failed: {job}: {str(error).strip()}")
        if self.failures:
            raise config.ConfigError(
                f"{len(self.failures)} runs failed (listed above); the same command tries them again"
            )


def tables(results: list[dict], style: str, spread: bool = False) -> str:
    """The results of a protocol on a dataset: a row for each trainer and number of shots, the mean over the seeds.

    Args:
        style: of `tabulate`.
        spread: also the standard deviation over the seeds, and the mean time of a run.
    """
    columns = PROTOCOLS[results[0]["protocol"]].columns
    several = len({result["shots"] for result in results} - {None}) > 1
    rows = []
    for trainer, shots in dict.fromkeys((result["trainer"], result["shots"]) for result in results):
        runs = [result for result in results if (result["trainer"], result["shots"]) == (trainer, shots)]
        label = LABELS.get(trainer, trainer) + (f", {shots} shots" if several and shots else "")
        row = [label, *(_mean_std([figure(run) for run in runs], spread) for figure in columns.values())]
        rows.append([*row, f"{statistics.mean(run['seconds'] for run in runs):.0f} s"] if spread else row)
    headers = ["", *columns, *(["a run"] if spread else [])]
    shown = {"stralign": "right", "disable_numparse": True} if spread else {"floatfmt": ".2f"}
    return tabulate(rows, headers=headers, tablefmt=style, **shown)


def _mean_std(values: list[float], spread: bool) -> float | str:
    if not spread:
        return statistics.mean(values)
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
