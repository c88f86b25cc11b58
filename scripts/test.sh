#!/usr/bin/env bash
# Sets up what is missing, then runs the quick tests; arguments go to pytest (`-m slow` runs the slow tests instead).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
exec "$PYTHON" -m pytest -m "not slow" "$@"
