#!/usr/bin/env bash
# Every table and curve of the paper beside what is in runs/.
# usage: shell/70_report.sh [flags of benco report]
set -euo pipefail

exec benco report runs "$@"
