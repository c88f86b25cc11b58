"""Run both phases and the evaluation of `base2new` on the toys, in child processes that may be killed.

As a program (`play` calls it: a separate process, since it forks) it does five things:

- kill: undisturbed in ROOT/kill/undisturbed, then again in ROOT/kill/killed, where the child that does it is killed at
  random points until it gets through.
- share: seeds 1, 1 and 2 at once in ROOT/share/shared, then seeds 1 and 2 one by one in ROOT/share/alone.
- stop: runs in ROOT/stop/SIGTERM and ROOT/stop/SIGINT get these signals after their first epoch.
- fill: a run in ROOT/fill/run on a disk that is full (a limit on the size of files replaces it: writing fails in the
  same place, with another number).
- spoil: a run whose data workers meet a truncated image, ROOT/spoil/toy/train_1_2.png.
"""

import atexit
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import toy
from children import ALONE, program

from trainers.cli import train
from trainers.cli.program import guarded
from trainers.experiments import runs, setting

HOST = "PromptSRC"  # it has the most to remember


@dataclass
class ToySetting(setting.Setting):
    """The setting of the protocol on the toys."""

    epochs: int = 3

    def registered_name(self, dataset=""):
        """Return the toys' name instead of a data file's."""
        return "Toy"

    def configuration(self, trainer, seed, folder, options=(), dataset=""):
        """Return a configuration for the toys instead of a recipe's."""
        more = {"OPTIM__MAX_EPOCH": self.epochs, "TRAINER__PROMPTSRC__GPA_MEAN": 2, "SEED": seed}
        line = toy.command(self.data, trainer, folder, **more)
        return train.setup_cfg(train.parse([*line, *self.kept_features(trainer), *options]))


def prepare(root):
    """Write images and CLIPs."""
    toy.draw(root / "toy")
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)


def run(root, output, seed=1):
    """Run phase 1, phase 2 and the evaluation."""
    toys = ToySetting("toy", root, output)
    runs.boost(toys)
    runs.host_run(toys, f"CasPL_{HOST}", seed, 2)


def forked(work):
    """Return the process id of a child that runs `work()`, whose result is its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work() or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


def exit_code(pid):
    """Wait for a child; return its exit code (-9: killed)."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def child(work):
    """Run `work()` in a child; return its exit code."""
    return exit_code(forked(work))


def killed_after(work, seconds):
    """Return `work`, killed after some CPU time, which does not depend on the machine's load."""

    def until_then():
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_PROF, seconds)
        work()
        signal.setitimer(signal.ITIMER_PROF, 0)

    return until_then


def children_seconds():
    """Return the CPU time of all children so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def killed_at_rename(work, count, ahead):
    """Return `work`, killed at its `count`-th renaming of a file, just before or after it."""

    def until_then():
        left, replace = [count], os.replace

        def renaming(*args):
            left[0] -= 1
            if left[0] == 0 and ahead:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*args)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = renaming
        work()

    return until_then


def share(root):
    """Run seeds 1, 1 and 2 concurrently, then 1 and 2 one by one."""
    pids = [forked(lambda seed=seed: run(root, root / "shared", seed)) for seed in (1, 1, 2)]
    codes = [exit_code(pid) for pid in pids]
    shutil.rmtree(root / "toy" / "split_fewshot")
    return codes + [child(lambda seed=seed: run(root, root / "alone", seed)) for seed in (1, 2)]


def stop(root):
    """Send SIGTERM and SIGINT to runs after their first epoch."""
    codes = []
    for number in (signal.SIGTERM, signal.SIGINT):
        line = toy.command(root, "CoOp", root / number.name, OPTIM__MAX_EPOCH=5000)
        pid = forked(lambda line=line: interruptible(line))
        while not (root / number.name / "progress.pt").is_file():
            time.sleep(0.01)
        os.kill(pid, number)
        codes.append(exit_code(pid))
    return codes


def interruptible(line):
    """Run `train.py` with Ctrl-C enabled, which background processes ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return guarded(lambda: train.run(line))


def fill(root):
    """Run with a limit on file sizes."""

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))
        return guarded(lambda: train.run(toy.command(root, "CasPL", root / "run", OPTIM__MAX_EPOCH=2)))

    return [child(work)]


def spoil(root):
    """Run with a truncated image."""
    bad = root / "toy" / "train_1_2.png"
    bad.write_bytes(bad.read_bytes()[:200])
    line = toy.command(root, "CoOp", root / "run", DATALOADER__NUM_WORKERS=2)
    return [child(lambda: guarded(lambda: train.run(line)))]


def kill(root):
    """Kill a run at random points until it finishes."""
    rng = random.Random(1)
    start = children_seconds()
    if child(lambda: run(root, root / "undisturbed")):
        raise RuntimeError("the undisturbed run failed")
    seconds = children_seconds() - start
    shutil.rmtree(root / "toy" / "split_fewshot")

    def work():
        run(root, root / "killed")

    codes = []
    for attempt in range(8):
        if attempt % 2:
            codes.append(child(killed_at_rename(work, rng.randint(1, 4), rng.random() < 0.5)))
        else:
            codes.append(child(killed_after(work, rng.uniform(0.1, 0.6) * seconds)))
        if codes[-1] == 0:
            break
    else:
        codes.append(child(work))
    return codes


@functools.cache
def play():
    """Run the program once for all tests; return (ROOT, {part: its children's exit codes}, its stderr)."""
    root = Path(tempfile.mkdtemp(prefix="protocol-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    command = program(__file__, root)
    done = subprocess.run(command, capture_output=True, text=True, env=ALONE)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return root, json.loads(done.stdout.splitlines()[-1]), done.stderr


if __name__ == "__main__":
    codes = {}
    for what in (kill, share, stop, fill, spoil):
        folder = Path(sys.argv[1]) / what.__name__
        prepare(folder)
        codes[what.__name__] = what(folder)
    sys.stdout.write(f"\n{json.dumps(codes)}\n")
