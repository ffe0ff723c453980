#!/usr/bin/env bash
# From a fresh clone to masks on real photographs: makes .venv, installs, and runs `benco demo`.
# usage: shell/quickstart.sh [flags of benco demo]
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/shell/install.sh" demo
echo "==> benco demo $*"
exec "$root/.venv/bin/benco" demo "$@"
