#!/usr/bin/env bash
# The studies of RESULTS.md: every row with every seed, then the tables. Started again, it goes on where it stopped.
# usage: STUDY_DATA=/folder shell/80_study.sh [flags of benco train]      e.g. --epochs 200
#   STUDY_DATA  holds photos/, which are tampered for training (along the label maps of regions/, if it is there), and
#               other photographs for the test: val/Au/, which are tampered, or val/list.json, which holds forgeries
#   SIDE        pixels: squares, from scratch, the rows of benco_configs/study/squares.yaml (128); or "photographs": at their own size,
#               from ImageNet weights (--encoder_weights FILE, where there is no hub), those of photographs.yaml
#   ROWS        configurations; ROW_without_KIND leaves splice, copy_move or removal out of the training
#   SEEDS, OUT  seeds, and the folder of the runs
set -euo pipefail

: "${STUDY_DATA:?set it to the folder that holds photos/ and val/}"
seeds="${SEEDS:-0 1 2}"
side="${SIDE:-128}"
out="${OUT:-output_dir/study_$side}"
if [ "$side" = photographs ]; then
    compared="discriminative DiffIML" others=""
    configs=study_photographs size=() test="$STUDY_DATA/val/list.json"
else
    compared="discriminative DiffIML t_noisy" others="edge_off seg_weight_0.2 prior_0 prior_0.3 ema_off denoiser_release"
    configs=study size=(--synth_window "$side" --image_size "$side") test="$out/images/list.json"
    [ -e "$test" ] || benco tamper "$STUDY_DATA/val/Au" --images 150 --window "$side" --strength visible --seed 1 \
        --output_dir "$out/images"
fi
rows="$compared"
for kind in removal splice copy_move; do
    rows+=" ${compared// /_without_$kind }_without_$kind"
done
rows+=" $others"

tested() {  # tested RUN VERB [flags]: VERB on the run's last weights, once
    [ -e "$1/$2/done" ] && return
    benco "$2" --checkpoint_path "$1/last.safetensors" --test_data_path "$test" --output_dir "$1/$2" "${@:3}"
    touch "$1/$2/done"
}

for seed in $seeds; do
    for row in ${ROWS:-$rows}; do
        run="$out/$row/$seed" kinds=splice,copy_move,removal
        case $row in
            *_without_splice) kinds=copy_move,removal ;;
            *_without_copy_move) kinds=splice,removal ;;
            *_without_removal) kinds=splice,copy_move ;;
            *_without_*) echo "error: $row leaves out none of splice, copy_move, removal" >&2; exit 2 ;;
        esac
        benco train --config "${configs}_${row%%_without_*}" --synth_kinds $kinds "${size[@]}" \
            --test_data_path "$test" --seed "$seed" --output_dir "$run" --resume auto "$@"
        tested "$run" test
        case " $compared " in *" $row "*)
            tested "$run" robust
            [ $row = discriminative ] ||
                tested "$run" sweep --vary num_inference_steps=1,2,4,8 ensemble_size=1,3,5,10 --noise_seeds 5 ;;
        esac
    done
done
benco study "$out" --output_dir "$out"
