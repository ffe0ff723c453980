#!/usr/bin/env bash
# The model that travels with the package: trains it (run again, it goes on), tests it, stores it in half precision.
# usage: STUDY_DATA=/folder shell/81_small.sh [flags of benco train]      e.g. --encoder_weights FILE, where there is no hub
#   STUDY_DATA  as for 80_study.sh, with train/list.json and val/list.json
set -euo pipefail

STUDY_DATA="$(cd "${STUDY_DATA:?set it to the folder that holds train/, val/ and photos/}" && pwd)"
export STUDY_DATA
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
benco train --config small --output_dir runs/small --resume auto "$@"
[ -e runs/small/test/results.json ] ||
    benco test --checkpoint_path runs/small/last.safetensors --test_data_path "$STUDY_DATA/val/list.json" \
        --output_dir runs/small/test
benco release runs/small/last.safetensors runs/small/small.safetensors --results runs/small/test/results.json \
    --statement "$root/benco_configs/small_card.json"
