#!/usr/bin/env bash
# Base-to-new generalisation: bash scripts/caspl/base2new.sh <dataset> <seed> [--host H] [--shots N]
# [--data DIR] [--output DIR] [--baseline] [KEY VALUE ...]; see --help.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m trainers base2new "$@"
