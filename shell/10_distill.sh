#!/usr/bin/env bash
# Trains LightVAE on masks of many kinds; the teacher, if wanted: --teacher stabilityai/sd-vae-ft-mse
# usage, after shell/05_prepare.sh: DATA_ROOT=FOLDER shell/10_distill.sh [flags of benco distill]
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco distill --config distill "$@"
