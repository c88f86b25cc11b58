#!/usr/bin/env bash
# Runs the quick tests at both ends of the range of PyTorch that pyproject.toml states, on the CPU, each in a separate .venv:
#
#     bash scripts/compatibility.sh [oldest|newest] [arguments for pytest]     (without either name: both)
#
# pip finds PyTorch where it finds everything else; TORCH_INDEX may name an index with CPU builds of it, which are a tenth
# of the size. The oldest PyTorch has no builds for Python 3.13 or newer: set PYTHON to a Python from 3.10 to 3.12 there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

pinned() { grep -oE "^$1==[0-9.]+" requirements.txt; }

versions_of() { # what goes together at one end
    case $1 in
        oldest) echo "torch==2.3.1 torchvision==0.18.1 numpy==1.26.4" ;;
        newest) echo "$(pinned torch) $(pinned torchvision)" ;;
    esac
}

make_venv() { # <end> <folder>; once, and again when the versions change
    local wanted python=${PYTHON:-python3}
    wanted="$(versions_of "$1") $(cksum <requirements.txt)"
    if [[ -f $2/installed.txt && $(<"$2/installed.txt") == "$wanted" ]]; then
        return
    fi
    if [[ $1 == oldest ]] && ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))'; then
        echo "error: $(versions_of oldest) has builds for Python 3.10 to 3.12, and $python is $("$python" --version): set PYTHON" >&2
        return 1
    fi
    echo "Setting up $2 with $(versions_of "$1") ($("$python" --version))" >&2
    rm -rf "$2"
    "$python" -m venv "$2"
    local pip=("$2/bin/python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" $(pinned setuptools) $(pinned wheel)
    "${pip[@]}" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} $(versions_of "$1" | tr ' ' '\n' | grep '^torch')
    # PyTorch is there already, and stays; openai-clip's build needs the pinned setuptools.
    versions_of "$1" | tr ' ' '\n' >"$2/constraints.txt"
    grep -vE '^(torch|torchvision)==' requirements.txt |
        if [[ $1 == oldest ]]; then grep -v '^numpy=='; else cat; fi >"$2/others.txt"
    "${pip[@]}" --no-build-isolation -c "$2/constraints.txt" $(versions_of "$1" | tr ' ' '\n' | grep '^numpy') -r "$2/others.txt"
    echo "$wanted" >"$2/installed.txt"
}

ends=(oldest newest)
if [[ ${1:-} == oldest || ${1:-} == newest ]]; then
    ends=("$1")
    shift
fi
for end in "${ends[@]}"; do
    make_venv "$end" ".venv-$end"
    ".venv-$end/bin/python" -c 'import sys, torch; print("Python", sys.version.split()[0], "and PyTorch", torch.__version__)'
    ".venv-$end/bin/python" -m pytest -q -m "not slow" -n 2 --dist loadfile "$@"
done
