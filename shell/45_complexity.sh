#!/usr/bin/env bash
# Table 4: parameters, FLOPs and frames per second of DiffIML and the framework's models, all on this device.
# usage: shell/45_complexity.sh [flags of benco complexity]      e.g. --zoo MVSSNet Trufor
set -euo pipefail

mkdir -p runs
exec benco complexity --zoo --json runs/complexity.json "$@"
