#!/usr/bin/env bash
# The paper's tables: bash scripts/caspl/reproduce.sh base2new|few_shot|cross_dataset|all [--datasets ...] [--hosts ...]
# [--seeds ...] [--miniature] [--cluster local|slurm --jobs N]; see --help.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m trainers reproduce "$@"
