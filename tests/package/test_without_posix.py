"""A system without POSIX modules, as Windows: `import caspl` and base2new work there."""

import os
import subprocess
import sys

import pytest
from children import ALONE

WITHOUT_POSIX = """
import sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
import os, signal
import torch  # its build for Linux may use all of the following
for name in ("fork", "sched_getaffinity", "sysconf"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1"):
    delattr(signal, name)
"""


EPOCHS = ["OPTIM.MAX_EPOCH", "1", "--boost", "OPTIM.MAX_EPOCH", "1"]


def run(program, folder):
    """Run a Python program in `folder` on the simulated system and return what it prints."""
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_POSIX + program]
    done = subprocess.run(command, cwd=folder, env=ALONE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.skipif(os.name == "nt", reason="simulates a system without POSIX modules on one that has them")
def test_import_registers_the_trainers(tmp_path):
    program = "import trainers\nfrom dassl.engine import TRAINER_REGISTRY as r\nprint(*r.registered_names())"
    assert "CasPL_CoOp" in run(program, tmp_path).split()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="simulates a system without POSIX modules on one that has them")
def test_base2new_prints_its_table(tmp_path):
    words = ["base2new", "shapes", "1", "--host", "coop", "--data", "data", "--output", "output", *EPOCHS]
    program = f"from trainers.__main__ import main\nsys.exit(main({words}))"
    assert "CasPL_CoOp" in run(program, tmp_path).splitlines()[-1]
