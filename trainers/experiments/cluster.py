"""A grid's jobs through submitit: on a SLURM cluster, or in processes of this machine."""

import os
import time
from pathlib import Path

import submitit

from .grid import Failures, Job
from .places import ROOT

POLL = 0.5  # seconds


class Cluster:
    """Starts jobs, phase 1 ahead of what needs it. Whoever stops it and starts it again goes on with what is not done.

    Args:
        kind: "local" or "slurm".
        at_once: how many jobs may run or wait in the queue at a time.
        folder: for submitit's files (each job's script, output and error stream).
        parameters: NAME=VALUE, of submitit's `AutoExecutor.update_parameters`.

    Raises:
        ValueError: `at_once` below 1, a parameter that is no NAME=VALUE, or that submitit does not know.
        RuntimeError: there is no SLURM here.
    """

    def __init__(self, kind: str, at_once: int, folder: Path, parameters: list[str]):
        if at_once < 1:
            raise ValueError(f"--jobs is {at_once}, expected 1 or more")
        if unclear := [item for item in parameters if "=" not in item]:
            raise ValueError(f"--slurm {unclear[0]!r} is no NAME=VALUE, as slurm_partition=gpu")
        self.at_once = at_once
        try:
            self.executor = submitit.AutoExecutor(folder=folder.resolve(), cluster=kind)
            self.executor.update_parameters(name="caspl", **_parameters(kind, parameters))
        except (NameError, RuntimeError) as error:
            raise ValueError(f"submitit refuses --cluster {kind} --slurm {' '.join(parameters)}: {error}") from error
        # The jobs' processes import the same modules; on this machine they share its cores.
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if kind == "local":
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))

    def run(self, jobs: list[Job], failures: Failures) -> list[dict]:
        """Do all jobs; what fails is added to `failures`, and the rest goes on. Results in the order of the jobs."""
        waiting, running, results = list(jobs), {}, {}
        try:
            while waiting or running:
                waiting = [job for job in waiting if not failures.hopeless(job)]
                for job in [job for job in waiting if job.needs is None or job.needs.is_file()]:
                    if len(running) == self.at_once:
                        break
                    waiting.remove(job)
                    running[self.executor.submit(job)] = job
                    print(f"Started: {job}", flush=True)
                time.sleep(POLL)
                for started in [started for started in running if started.done()]:
                    job = running.pop(started)
                    if error := started.exception():
                        failures.add(job, _short(error))
                    else:
                        results[id(job)] = started.result()
                        print(f"Finished: {job}", flush=True)
        except BaseException:
            for started in running:
                started.cancel()
            raise
        return [results[id(job)] for job in jobs if results.get(id(job)) is not None]


def _parameters(kind: str, given: list[str]) -> dict:
    found = {"timeout_min": 24 * 60} | ({"gpus_per_node": 1, "cpus_per_task": 8} if kind == "slurm" else {})
    for name, _, value in (item.partition("=") for item in given):
        found[name] = int(value) if value.isdigit() else value
    return found


def _short(error: BaseException) -> BaseException:
    """The last line of a job's traceback, which submitit puts into its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    told = [line for line in lines if "Error: " in line and not line.startswith("submitit")]
    return RuntimeError(told[-1] if told else lines[-1] if lines else repr(error))
