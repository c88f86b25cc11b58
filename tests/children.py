"""Processes that tests start: the checkout on their path, Dassl importable, one thread, no GPU."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
ALONE = {**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # it may fork
_START = "import runpy, sys; import trainers; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def program(file, *arguments, python=()):
    """Return the command that runs a file as a program, after `import trainers` has made Dassl importable."""
    return [sys.executable, *python, "-c", _START, str(file), *map(str, arguments)]
