# Sourced by the other scripts: sets PYTHON to an interpreter that has every package the project needs.
#
# A Python with all packages (and `more_modules`, if the sourcing script sets them) is used; otherwise .venv is created from
# requirements.txt, once.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
modules="torch torchvision clip pkg_resources ftfy regex yacs yaml filelock safetensors numpy PIL tqdm scipy tabulate matplotlib submitit open_clip transformers onnx onnxruntime onnxscript huggingface_hub gradio mkdocs material mkdocstrings ipykernel nbclient pytest xdist hypothesis ${more_modules:-}"

has_everything() {
    "$1" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' $modules 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10 or newer was found: install one, or set PYTHON to its path" >&2
    return 1
}

make_venv() {
    local venv=$root/.venv
    echo "Setting up $venv ($("$1" --version)) from requirements.txt once; this takes some minutes." >&2
    rm -rf "$venv"
    if ! "$1" -m venv "$venv"; then
        echo "error: $1 -m venv failed: install your system's python3-venv package, or set PYTHON to another one" >&2
        return 1
    fi
    # openai-clip's build needs pkg_resources: no build isolation, so that it finds the pinned setuptools.
    local pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
    if ! "${pip[@]}" $(grep -oE '^(setuptools|wheel)==[0-9.]+' "$root/requirements.txt") ||
        ! "${pip[@]}" --no-build-isolation -r "$root/requirements.txt"; then
        echo "error: installing requirements.txt into $venv failed (see above)" >&2
        return 1
    fi
    cp "$root/requirements.txt" "$venv/installed.txt"
}

# Installs Chromium for the tests of pages where apt-get and the rights to use it are there; they are skipped without it.
install_chromium() {
    local name
    for name in chromium chromium-browser google-chrome; do
        if command -v "$name" >/dev/null; then return; fi
    done
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing Chromium once, for the tests of pages." >&2
        if { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes chromium; } >/dev/null 2>&1; then return; fi
    fi
    echo "note: no Chromium on this machine and none can be installed; the tests of pages are skipped" >&2
}

PYTHON=$(find_python) || exit 1
if ! has_everything "$PYTHON"; then
    cmp -s "$root/requirements.txt" "$root/.venv/installed.txt" || make_venv "$PYTHON" || exit 1
    PYTHON=$root/.venv/bin/python
fi
export PYTHON
