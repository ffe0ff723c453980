#!/usr/bin/env bash
# The study of RESULTS.md: every row with every seed, then the tables. Started again, it goes on where it stopped.
# usage: STUDY_DATA=/folder shell/80_study.sh [flags of benco train]      e.g. --synth_window 256 --image_size 256
#   STUDY_DATA  holds photos/, which are tampered for training (along the label maps of regions/, if it is there), and
#               val/Au/, other photographs, which are tampered for the test
#   ROWS        configurations benco_configs/study_ROW.yaml; ROW_without_KIND leaves that kind out of the training
#   SEEDS, OUT  seeds, and the folder of the runs
set -euo pipefail

: "${STUDY_DATA:?set it to the folder that holds photos/ and val/Au/}"
seeds="${SEEDS:-0 1 2}"
out="${OUT:-output_dir/study}"
side="${SIDE:-128}"      # pixels
test="$out/test_$side"

[ -e "$test/list.json" ] || benco tamper "$STUDY_DATA/val/Au" --images 150 --window "$side" --strength visible --seed 1 \
    --output_dir "$test"

tested() {  # tested RUN VERB [flags]: VERB on the run's last weights, once
    [ -e "$1/$2/done" ] && return
    benco "$2" --checkpoint_path "$1/last.safetensors" --test_data_path "$test/list.json" --output_dir "$1/$2" "${@:3}"
    touch "$1/$2/done"
}

for seed in $seeds; do
    for row in ${ROWS:-discriminative DiffIML discriminative_without_removal DiffIML_without_removal edge_off
            seg_weight_0.2 t_noisy prior_0 prior_0.3 ema_off denoiser_paper}; do
        run="$out/$row/$seed" kinds=splice,copy_move,removal
        case $row in
            *_without_splice) kinds=copy_move,removal ;;
            *_without_copy_move) kinds=splice,removal ;;
            *_without_removal) kinds=splice,copy_move ;;
        esac
        benco train --config "study_${row%%_without_*}" --synth_kinds $kinds --synth_window "$side" --image_size "$side" \
            --test_data_path "$test/list.json" --seed "$seed" --output_dir "$run" --resume auto "$@"
        tested "$run" test
        [[ $row == DiffIML ]] &&
            tested "$run" sweep --vary num_inference_steps=1,2,4,8 ensemble_size=1,3,5,10 --noise_seeds 1
        [[ $row == DiffIML || $row == discriminative ]] && tested "$run" robust
        true
    done
done
benco study "$out" --output_dir "$out"
