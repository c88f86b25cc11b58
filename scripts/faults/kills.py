"""Random kills: a command is killed until it gets through, and must leave what the undisturbed one leaves."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import children, commands

_TRIES = 8
_LAUNCHED = 3  # kills of torchrun, whose processes start from scratch


def one(folder: Path, intact: dict, rng: random.Random) -> tuple[str, str, str]:
    """Kill one command at random points; return (what, outcome, its last output)."""
    name = rng.choices(["train", "protocol", "grid", "cache", "torchrun"], [4, 3, 2, 3, 1])[0]
    return torchrun(folder, rng) if name == "torchrun" else _forked(name, folder, rng)


def _command(name: str, root: Path, output: str) -> Callable:
    if name == "train":
        return commands.train(root, "CoOp", output, "TRAIN.CHECKPOINT_FREQ", "1")
    if name == "cache":
        return commands.train(root, "CasPL", output, "TRAINER.CASPL.TEACHER.CACHE", str(root / f"{output}-cache"))
    return commands.protocol(root, output, grid=name == "grid")


def _forked(name: str, folder: Path, rng: random.Random) -> tuple[str, str, str]:
    root, what = folder / "intact", f"kill: {name}"
    for path in root.glob("kill*"):
        shutil.rmtree(path)
    undisturbed = _reference(name, root, folder)
    if undisturbed.code != 0:
        return what, "traceback", undisturbed.text
    command = _command(name, root, "killed")
    for _ in range(_TRIES):
        if rng.random() < 0.5:
            before = children.dies_after(rng.uniform(0.05, 3.0))
        else:
            before = children.dies_at_rename(rng.randint(1, 12), rng.random() < 0.5)
        ended = children.run(command, folder, before)
        if ended.code is None or ended.code not in (0, -signal.SIGKILL):
            return what, ended.outcome(undisturbed.figures), ended.text
        if ended.code == 0:
            break
    ended = children.run(command, folder)
    same = commands.learned(root / "killed") == commands.learned(root / f"whole-{name}")
    left = [str(path) for path in (root / "killed").rglob("*.part")]
    outcome = ended.outcome(undisturbed.figures)
    if outcome == "same" and (not same or left):
        return what, "differs", f"{ended.text}\nleft: {left}"
    return what, "differs" if outcome == "rejected" else outcome, ended.text


_references: dict[tuple[str, str], children.Ended] = {}


def _reference(name: str, root: Path, folder: Path) -> children.Ended:
    """Run the command undisturbed, once."""
    key = (name, str(root))
    if key not in _references:
        _references[key] = children.run(_command(name, root, f"whole-{name}"), folder)
    return _references[key]


def torchrun(folder: Path, rng: random.Random) -> tuple[str, str, str]:
    """Kill a run of two processes; return (what, outcome, its last output)."""
    root, what = folder / "intact", "kill: torchrun"
    for path in root.glob("kill*"):
        shutil.rmtree(path)
    text, code = "", -1
    for attempt in range(_LAUNCHED + 1):
        wait = rng.uniform(2, 40) if attempt < _LAUNCHED else children.LIMIT * 3
        code, text = _launched(root, "killed", wait)
        if code == 0:
            break
    if code is None:
        return what, "hang", text
    if "whole" not in _launched_figures:
        _launched_figures["whole"] = _launched(root, "whole-torchrun", children.LIMIT * 3)[1].splitlines()[-1:]
    if code != 0:
        return what, "traceback", text
    return what, "same" if text.splitlines()[-1:] == _launched_figures["whole"] else "differs", text


_launched_figures: dict[str, list[str]] = {}


def _launched(root: Path, output: str, seconds: float) -> tuple[int | None, str]:
    """Start two processes and kill all of them after some seconds; return the exit code, None if killed, and the output."""
    checkout = Path(__file__).resolve().parents[2]
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(checkout / "train.py"),
    ]
    line += ["--root", str(root / "data"), "--seed", "1", "--trainer", "CoOp", "--output-dir", str(root / output)]
    line += ["--config-file", str(checkout / "configs/trainers/CoOp/shapes.yaml")]
    line += ["--dataset-config-file", str(checkout / "configs/datasets/image_folder.yaml")]
    line += [item.format(root=root) for item in commands.SIZES]
    with open(root / "torchrun.txt", "w+") as log:
        process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        code = process.poll()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        log.seek(0)
        return code, log.read()
