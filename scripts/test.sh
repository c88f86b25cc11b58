#!/usr/bin/env bash
# Sets up what is missing, then runs the quick tests in two processes; arguments go to pytest (`-m slow` runs the slow
# tests instead, `-n 0` uses one process).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # each process has a core of its own
exec "$PYTHON" -m pytest -m "not slow" -n 2 --dist loadfile "$@"
