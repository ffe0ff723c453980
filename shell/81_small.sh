#!/usr/bin/env bash
# The model that travels with the package: trains it in two parts (run again, it goes on), tests it, stores it in half
# precision.
# usage: STUDY_DATA=/folder shell/81_small.sh [flags of benco train]
#   STUDY_DATA  as for 80_study.sh, with train/list.json and val/list.json
set -euo pipefail

: "${STUDY_DATA:?set it to the folder that holds train/, val/ and photos/}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
benco train --config small --output_dir runs/small --resume auto "$@"
benco train --config small_authentic --output_dir runs/small_authentic --resume auto "$@"
benco test --checkpoint_path runs/small_authentic/last.safetensors --test_data_path "$STUDY_DATA/val/list.json" \
    --output_dir runs/small_authentic/test
benco release runs/small_authentic/last.safetensors runs/small_authentic/small.safetensors \
    --statement "$root/benco_configs/small_card.json"
