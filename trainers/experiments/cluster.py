"""A grid's jobs through submitit: on a SLURM cluster, or in processes of this machine.

submitit hands a job to its process as a pickle. Each start therefore uses a fresh folder that only this user can read;
results are read from `result.json`, never from submitit's pickles.
"""

import contextlib
import logging
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import submitit

from .grid import Failures, Job
from .places import ROOT
from .result import Result

logger = logging.getLogger(__name__)

POLL = 0.5  # seconds
_TAIL = 1 << 16  # bytes of an error stream that are searched for its error


class Cluster:
    """Starts jobs, phase 1 before the runs that need it.

    A stopped grid can be started again and resumes.

    Args:
        kind: "local" or "slurm".
        at_once: number of jobs that may run or wait in the queue at a time.
        folder: parent of the fresh folder with each job's script, output and error stream.
        parameters: NAME=VALUE pairs of submitit's `AutoExecutor.update_parameters`.

    Raises:
        ValueError: `at_once` is below 1, or a parameter is not NAME=VALUE or unknown to submitit.
        OSError: the folder cannot be written to.
    """

    def __init__(self, kind: str, at_once: int, folder: Path, parameters: list[str]):
        if at_once < 1:
            raise ValueError(f"--jobs: {at_once}; expected 1 or more")
        if unclear := [item for item in parameters if "=" not in item]:
            raise ValueError(f"--slurm: {unclear[0]!r}; expected NAME=VALUE, such as slurm_partition=gpu")
        self.at_once = at_once
        self.folder = _fresh(folder)
        try:
            self.executor = submitit.AutoExecutor(folder=self.folder, cluster=kind)
            self.executor.update_parameters(name="caspl", **_parameters(kind, parameters))
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            for made in (self.folder, self.folder.parent):
                with contextlib.suppress(OSError):  # it was not empty before
                    made.rmdir()
            given = " ".join(["--cluster", kind, "--slurm", *parameters])
            raise ValueError(f"{given}: submitit does not accept it: {error}") from error
        # The jobs' processes import the same modules; on this machine they share its cores.
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if kind == "local":
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))

    def run(self, jobs: list[Job], failures: Failures) -> list[Result]:
        """Do all jobs, and return their results in the order of the jobs.

        Args:
            jobs: the jobs.
            failures: failed jobs are added to it; the others are still done.
        """
        waiting = list(jobs)
        running: dict[Any, Job] = {}
        results: dict[int, Result | None] = {}
        try:
            while waiting or running:
                waiting = [job for job in waiting if not failures.hopeless(job)]
                for job in [job for job in waiting if job.needs is None or job.needs.is_file()]:
                    if len(running) == self.at_once:
                        break
                    waiting.remove(job)
                    running[self.executor.submit(job.work)] = job
                    logger.info("Started: %s", job)
                time.sleep(POLL)
                for started in [started for started in running if started.done()]:
                    job = running.pop(started)
                    try:
                        results[id(job)] = job.outcome()
                        logger.info("Finished: %s", job)
                    except (ValueError, OSError) as error:
                        failures.add(job, RuntimeError(_error_of(started) or str(error)))
        except BaseException:
            for started in running:
                started.cancel()
            raise
        return [result for job in jobs if (result := results.get(id(job))) is not None]


def _fresh(folder: Path) -> Path:
    """Create and return a folder that only this user can read."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=folder.resolve()))  # mode 0700
    except OSError as error:
        raise OSError(f"--output: cannot write to {folder} ({error}); expected a folder. Give another one") from error


def _parameters(kind: str, given: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"timeout_min": 24 * 60}
    if kind == "slurm":
        found |= {"gpus_per_node": 1, "cpus_per_task": 8}
    for name, _, value in (item.partition("=") for item in given):
        found[name] = int(value) if value.isdigit() else value
    return found


def _error_of(started: submitit.Job) -> str:
    """Return the last error in a job's error stream; empty if there is none, because the job was killed."""
    path = started.paths.stderr
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        lines = stream.read().decode(errors="replace").splitlines()
    found = [line.strip() for line in lines if re.match(r"\s*[\w.]*(Error|Exception): ", line)]
    return found[-1] if found else ""
