#!/usr/bin/env bash
# Makes .venv beside this folder and installs the package into it, once; what is there already is kept.
# usage: shell/install.sh [EXTRA]      EXTRA: dev, demo ..., as in pyproject.toml
#        PIP_CONSTRAINT=$PWD/constraints.txt shell/install.sh      the very versions that were tested (Python 3.11)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra="${1:-}"
done_mark=".venv/installed${extra:+-$extra}"

suitable='import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))'
if [[ ! -x .venv/bin/pip ]]; then
    for python in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
        if "$python" -c "$suitable" 2>/dev/null; then
            echo "==> making .venv with $("$python" --version)"
            "$python" -m venv .venv
            break
        fi
    done
    if [[ ! -x .venv/bin/pip ]]; then
        echo "error: found no Python 3.10 to 3.12 with venv and pip; install one, or name it: PYTHON=/path/to/python $0" >&2
        exit 2
    fi
fi

if [[ ! "$done_mark" -nt pyproject.toml ]]; then
    echo "==> installing into .venv (PyTorch and its libraries are some gigabytes: this takes minutes)"
    .venv/bin/python -m pip install --disable-pip-version-check --editable ".${extra:+[$extra]}"
    touch .venv/installed "$done_mark"
fi
