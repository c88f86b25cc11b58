#!/usr/bin/env bash
# Few-shot learning of all classes: bash scripts/caspl/few_shot.sh <dataset> <shots> <seed> [--host H]
# [--data DIR] [--output DIR] [--baseline] [KEY VALUE ...]; see --help.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m trainers few-shot "$@"
