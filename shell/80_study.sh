#!/usr/bin/env bash
# The study of RESULTS.md: every row with every seed, then the tables. Started again, it goes on where it stopped.
# usage: STUDY_DATA=/folder shell/80_study.sh [flags of benco train]      e.g. --crop_size 256 --epochs 200
#   STUDY_DATA  holds train/list.json and val/list.json; an image's name begins with its kind of manipulation
#   ROWS        configurations benco_configs/study_ROW.yaml; ROW_without_KIND leaves that kind out of the training
#   SEEDS, OUT  seeds, and the folder of the runs
set -euo pipefail

: "${STUDY_DATA:?set it to the folder that holds train/ and val/}"
seeds="${SEEDS:-0 1 2}"
out="${OUT:-output_dir/study}"
val="$STUDY_DATA/val/list.json"

tested() {  # tested RUN VERB [flags]: VERB on the run's last weights, once
    [ -e "$1/$2/done" ] && return
    benco "$2" --checkpoint_path "$1/last.safetensors" --test_data_path "$val" --output_dir "$1/$2" "${@:3}"
    touch "$1/$2/done"
}

for seed in $seeds; do
    for row in ${ROWS:-discriminative DiffIML discriminative_without_splice DiffIML_without_splice edge_off t_uniform
            seg_weight_0.2 prior_0 prior_0.3 denoiser_paper ema_off}; do
        run="$out/$row/$seed" data="$STUDY_DATA/train/list.json"
        if [[ $row == *_without_* ]]; then
            data="$out/without_${row##*_without_}.json"
            mkdir -p "$out"
            python -c '
import json, pathlib, sys
source, kind = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
pairs = [pair for pair in json.loads(source.read_text()) if not pathlib.Path(pair[0]).name.startswith(kind)]
print(json.dumps([[str(source.parent / image), str(source.parent / mask)] for image, mask in pairs]))
' "$STUDY_DATA/train/list.json" "${row##*_without_}" > "$data"
        fi
        benco train --config "study_${row%%_without_*}" --data_path "$data" --seed "$seed" --output_dir "$run" \
            --resume auto "$@"
        tested "$run" test
    done
done
for seed in $seeds; do
    tested "$out/DiffIML/$seed" sweep --vary num_inference_steps=1,2,4,8 ensemble_size=1,3,5,10 --noise_seeds 1
    for row in discriminative DiffIML; do
        tested "$out/$row/$seed" robust
    done
done
benco study "$out" --output_dir "$out"
