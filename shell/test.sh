#!/usr/bin/env bash
# The tests: makes .venv if it is not there, installs the package with its [dev] extra, runs pytest.
# usage: shell/test.sh [flags of pytest]      (the slow tests too: shell/test.sh -m "")
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
shell/install.sh dev
exec .venv/bin/python -m pytest -m "not slow and not network" "$@"
