# Sourced by the other scripts: sets PYTHON to an interpreter that has all that the project needs.
#
# A Python that has everything is used as it is; otherwise .venv is made from requirements.txt, once.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
modules="torch, yacs, safetensors, numpy, PIL, tqdm, ftfy, regex, scipy, tabulate, pytest, hypothesis, pkg_resources"
complete="import warnings; warnings.simplefilter('ignore'); import importlib.util, $modules; \
assert importlib.util.find_spec('clip') and importlib.util.find_spec('torchvision')"

has_everything() { "$1" -c "$complete" >/dev/null 2>&1; }

find_python() {
    for candidate in "${PYTHON:-}" python3 python python3.13 python3.12 python3.11 python3.10; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && {
            echo "$candidate"
            return
        }
    done
    echo "error: no Python 3.10 or newer was found: install one, or set PYTHON to its path" >&2
    return 1
}

make_venv() {
    echo "Setting up $root/.venv ($("$1" --version)) from requirements.txt; this happens once and takes some minutes." >&2
    rm -rf "$root/.venv"
    "$1" -m venv "$root/.venv" || {
        echo "error: $1 -m venv failed: install your system's python3-venv package, or set PYTHON to another Python" >&2
        return 1
    }
    local pip=("$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    # openai-clip's build needs pkg_resources: no build isolation, so that it finds the pinned setuptools.
    "${pip[@]}" $(grep -oE '^(setuptools|wheel)==[^ ]+' "$root/requirements.txt") &&
        "${pip[@]}" --no-build-isolation -r "$root/requirements.txt" &&
        sha256sum "$root/requirements.txt" | cut -c -64 >"$root/.venv/complete" || {
        echo "error: installing requirements.txt into $root/.venv failed (see above)" >&2
        return 1
    }
}

is_current() {
    [ -x "$root/.venv/bin/python" ] && [ -f "$root/.venv/complete" ] &&
        [ "$(cat "$root/.venv/complete")" = "$(sha256sum "$root/requirements.txt" | cut -c -64)" ]
}

if is_current; then
    PYTHON=$root/.venv/bin/python
else
    PYTHON=$(find_python) || exit 1
    if ! has_everything "$PYTHON"; then
        make_venv "$PYTHON" || exit 1
        PYTHON=$root/.venv/bin/python
    fi
fi
export PYTHON
