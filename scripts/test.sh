#!/usr/bin/env bash
# Sets up what is missing, then runs the tests; arguments go to pytest.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
exec "$PYTHON" -m pytest "$@"
