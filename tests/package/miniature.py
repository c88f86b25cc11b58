"""What titled commands of the manual need, in miniature: an installed package, a toolbox's checkout, a served page."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from conftest import ROOT
from workspace import PHASE_1, Workspace

WEIGHTS = ROOT / "trainers" / "backbones" / "weights" / "shapes-student.pt"
LINES = ("import caspl", "    caspl.extend_cfg(cfg)")


def output(command, folder: Path, **environment: str) -> str:
    """Return what a command prints; fail the test if its exit code is not 0."""
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def in_clone(workspace: Workspace, words, *more: str) -> str:
    """Run a program of the checkout from the workspace's folder, which keeps what it writes.

    Args:
        workspace: the folder.
        words: a command line that begins with `python` or `torchrun`.
        more: further arguments.
    """
    programs = {"python": ["-W", "ignore"], "torchrun": ["-m", "torch.distributed.run"]}
    rest = [str(ROOT / word) if word.endswith(".py") else word for word in words[1:]]
    command = [sys.executable, *programs[words[0]], *rest, *more]
    return output(command, workspace.folder, **{**workspace.environment, "PYTHONPATH": str(ROOT)})


class Toolbox:
    """A checkout of another toolbox, of the form of CoOp's, with its own trainer, reader and configuration.

    Args:
        folder: where to create it.
        workspace: with the installed package and a miniature dataset in `DATA`.
    """

    def __init__(self, folder: Path, workspace: Workspace):
        self.folder, self.environment = folder, workspace.environment
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tests" / "package" / "toolbox_checkout", folder, ignore=skipped)
        shutil.copytree(workspace.folder / "DATA", folder / "DATA")
        recipe = folder / "configs" / "trainers" / "CoOp" / "vit_b16_ep50.yaml"
        shutil.copy(recipe, recipe.with_stem("vit_b16_ep50_ctxv1"))  # a page names both

    def add_lines(self, block: str) -> None:
        """Add the two lines of a page to train.py, at the places that their comments name.

        Args:
            block: the page's program.
        """
        found = [line.split("#")[0].rstrip() for line in block.splitlines() if "caspl" in line]
        assert found == list(LINES)
        program = self.folder / "train.py"
        start, definition, rest = program.read_text().partition("def extend_cfg(cfg):\n")
        program.write_text(f"{LINES[0]}\n{start}{definition}{LINES[1]}\n{rest}")

    def train(self, words, options=(), pairs=()) -> str:
        """Run `python train.py` with the small CLIPs.

        Args:
            words: the command line, options before KEY VALUE pairs.
            options: further options, placed after the trainer's name.
            pairs: further KEY VALUE pairs.
        """
        start = words.index("--trainer") + 2
        pairs = ["MODEL.BACKBONE.NAME", WEIGHTS, *(PHASE_1 if words[start - 1] == "CasPL" else []), *pairs]
        command = [sys.executable, *words[1:start], *options, *words[start:], *pairs]
        return output(command, self.folder, **self.environment)


def served_page(workspace: Workspace, words, wait: float = 60) -> str:
    """Start a command that serves a page, return the page, and stop the command with Ctrl-C.

    Args:
        workspace: the folder in which it runs.
        words: the words after `caspl`, with `--port`.
        wait: seconds until the page must be there.
    """
    words = list(words)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        words[words.index("--port") + 1] = port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "caspl", *words]
    process = subprocess.Popen(command, cwd=workspace.folder, env=workspace.environment, stderr=subprocess.PIPE)
    try:
        return _page(process, f"http://127.0.0.1:{port}/", time.monotonic() + wait)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def _page(process: subprocess.Popen, address: str, end: float) -> str:
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(f"{address}: no page; exit code {process.poll()}")
