#!/usr/bin/env bash
# Checks a GPU within ten minutes and without a network: tests, then a table of training steps; see --help.
# PYTHON names the interpreter that has PyTorch and this project's requirements.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" - "$@" <<'PROGRAM'
import runpy
import sys

runpy.run_path("train.py")  # puts the checkout on the path
from scripts.benchmark.gpu_check import main

sys.exit(main())
PROGRAM
