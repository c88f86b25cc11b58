#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation: bash scripts/caspl/cross_dataset.sh <source> <seed> [--host H] [--targets ...]
# [--data DIR] [--output DIR] [--baseline] [KEY VALUE ...]; see --help.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m trainers cross-dataset "$@"
