#!/usr/bin/env bash
# The paper's tables: bash scripts/caspl/reproduce.sh base2new [--datasets ...] [--hosts ...] [--seeds ...]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
exec "$PYTHON" "$root/scripts/caspl/reproduce.py" "$@"
