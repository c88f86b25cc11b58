#!/usr/bin/env bash
# Phase 1 alone: bash scripts/caspl/boost.sh <dataset> [--data DIR] [--output DIR] [KEY VALUE ...]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m trainers boost "$@"
