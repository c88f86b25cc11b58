"""Random kills: a command is killed until it gets through, and must leave what the undisturbed one leaves."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import children, commands
from .children import Case

_TRIES = 8
_STARTS = 4  # of torchrun, whose processes start from scratch
_LIMIT = 3 * children.LIMIT


def _command(name: str, root: Path, output: str) -> commands.Command:
    if name == "train":
        return commands.train(root, "CoOp", output, *commands.KEPT)
    if name == "cache":
        return commands.train(root, "CasPL", output, "TRAINER.CASPL.TEACHER.CACHE", str(root / f"{output}-cache"))
    if name == "torchrun":
        return commands.train(root, "CoOp", output, "OPTIM.MAX_EPOCH", "4")
    return commands.protocol(root, output, grid=name == "grid")


def one(name: str, folder: Path, intact: dict, rng: random.Random) -> Case:
    """Kill a command at random points and let it resume.

    Args:
        name: "train", "cache", "protocol", "grid", or "torchrun": two processes in the environment that torchrun sets, all
            or one of which are killed.
        folder: scratch folder.
        intact: not used.
        rng: source of the points.
    """
    root, what = folder / "intact", f"kill: {name}"
    _clear(root)
    start = _in_two if name == "torchrun" else children.run
    whole, seconds = _reference(name, start, root, folder)
    if whole.code != 0:
        return Case(what, "traceback", whole.text)
    command, kills = _command(name, root, "killed"), 0
    for _ in range(_TRIES):
        ended = start(command, folder, _death(rng, seconds))
        if ended.code is None or ended.code not in (0, -signal.SIGKILL):
            return Case(what, ended.outcome(whole.figures), ended.text, kills)
        if ended.code == 0:
            break
        kills += 1
    ended = start(command, folder)
    return _compared(what, ended, whole, root, f"whole-{name}", kills)


def _clear(root: Path) -> None:
    for path in root.glob("kill*"):
        shutil.rmtree(path)


def _death(rng: random.Random, seconds: float) -> Callable[[], None]:
    """Return what lets a process die at a random point of a command that takes some seconds of the processor."""
    if rng.random() < 0.5:
        return children.dies_after(rng.uniform(0.02, 0.9) * seconds)
    return children.dies_at_rename(rng.randint(1, 12), rng.random() < 0.5)


def _compared(what: str, ended: children.Ended, whole: children.Ended, root: Path, name: str, kills: int) -> Case:
    outcome = ended.outcome(whole.figures)
    ours, theirs = commands.learned(root / "killed"), commands.learned(root / name)
    others = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    left = [str(path) for path in (root / "killed").rglob("*.part")]
    if outcome == "same" and (others or left):
        outcome = "differs"
    return Case(what, outcome, f"{ended.text}\nother contents: {others}, left: {left}", kills)


_references: dict[tuple[str, str], tuple[children.Ended, float]] = {}


def _reference(name: str, start: Callable, root: Path, folder: Path) -> tuple[children.Ended, float]:
    """Run a command undisturbed, once; return how it ended, and its seconds of the processor."""
    key = (name, str(root))
    if key not in _references:
        before = os.times()
        ended = start(_command(name, root, f"whole-{name}"), folder)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        _references[key] = ended, max(0.1, used)
    return _references[key]


def _in_two(command: commands.Command, folder: Path, before: Callable[[], None] | None = None) -> children.Ended:
    """Run a command in two processes, as torchrun starts them; when one dies, the other one is killed, as torchrun does."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def both() -> object:
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        second = os.fork()
        rank = "1" if second == 0 else "0"
        os.environ.update(shared, RANK=rank, LOCAL_RANK=rank)
        if second:
            signal.signal(signal.SIGCHLD, lambda *_: _end_with(second))
            if before is not None:
                before()
            figures = command()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with contextlib.suppress(ChildProcessError):  # the handler has seen it end
                os.waitpid(second, 0)
            return figures
        code = 1
        try:
            command()
            code = 0
        finally:
            os._exit(code)

    return children.run(both, folder, limit=children.LIMIT)


def _end_with(pid: int) -> None:
    """End this process as the other one ended, if it was not successful."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done and status:
        os.kill(os.getpid(), signal.SIGKILL)


def launched(folder: Path, intact: dict, rng: random.Random) -> Case:
    """Kill torchrun and all of its processes at random times, and let it resume."""
    root, what = folder / "intact", "kill: torchrun command"
    _clear(root)
    if "" not in _launches:
        _launches[""] = _launch(root, "whole-launched", _LIMIT)
    kills = 0
    for attempt in range(_STARTS):
        ended = _launch(root, "killed", rng.uniform(3, 25) if attempt < _STARTS - 1 else _LIMIT)
        if ended.code is not None:
            break
        kills += 1
    else:
        return Case(what, "hang", ended.text, kills)
    return _compared(what, ended, _launches[""], root, "whole-launched", kills)


_launches: dict[str, children.Ended] = {}


def _launch(root: Path, output: str, seconds: float) -> children.Ended:
    """Start two processes with torchrun, and kill all after some seconds; the figures are the accuracies that they print."""
    checkout = Path(__file__).resolve().parents[2]
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line += [str(checkout / "train.py"), "--root", str(root / "data"), "--seed", "1", "--trainer", "CoOp"]
    line += ["--output-dir", str(root / output), "--config-file", str(checkout / "configs/trainers/CoOp/shapes.yaml")]
    line += ["--dataset-config-file", str(checkout / "configs/datasets/image_folder.yaml")]
    line += [item.format(root=root) for item in commands.SIZES]
    with open(root / "torchrun.txt", "w+") as log:
        process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        code = process.poll()
        _kill_all(process.pid)  # torchrun starts each process in a separate session
        process.wait()
        log.seek(0)
        text = log.read()
    figures = sorted({line.partition(": accuracy")[2] for line in text.splitlines() if ": accuracy" in line})
    return children.Ended(code, {"accuracy": figures}, text)


def _kill_all(pid: int) -> None:
    """Kill a process and its descendants, the descendants last, so that the parent cannot start others."""
    pids = [pid]
    for parent in pids:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += [int(child) for child in task.read_text().split()]
            except OSError:  # it has ended
                continue
    for number in pids:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
