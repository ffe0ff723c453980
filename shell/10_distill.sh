#!/usr/bin/env bash
# Trains LightVAE on masks of many kinds, without a teacher.
# usage, after shell/05_prepare.sh: DATA_ROOT=FOLDER shell/10_distill.sh [flags of benco distill]
# the paper's Eq. 6 and terms of ours, with Stable Diffusion's VAE as the teacher: shell/10_distill.sh --config codec/distill#taught
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco distill --config codec/distill#alone "$@"
