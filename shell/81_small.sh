#!/usr/bin/env bash
# The model that travels with the package: trains it in two parts (run again, it goes on), takes the mean of both parts'
# weights in half precision, tests that, and writes its figures into it.
# usage: STUDY_DATA=/folder shell/81_small.sh [flags of benco train]      e.g. --encoder_weights FILE, where there is no hub
#   STUDY_DATA  as for 80_study.sh, with train/list.json and val/list.json
set -euo pipefail

STUDY_DATA="$(cd "${STUDY_DATA:?set it to the folder that holds train/, val/ and photos/}" && pwd)"
export STUDY_DATA
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out=runs/small
benco train --config small --output_dir $out/first --resume auto "$@"
benco train --config small_authentic --checkpoint_path $out/first/last.safetensors --output_dir $out/second --resume auto "$@"
card="$root/benco_configs/small/card.json"
if [ ! $out/mean.safetensors -nt $out/second/last.safetensors ]; then
    rm -f $out/mean.safetensors
    benco release $out/first/last.safetensors $out/second/last.safetensors $out/mean.safetensors --statement "$card"
fi
[ $out/test/results.json -nt $out/mean.safetensors ] ||
    benco test --checkpoint_path $out/mean.safetensors --test_data_path "$STUDY_DATA/val/list.json" --output_dir $out/test
rm -f $out/small.safetensors
benco release $out/mean.safetensors $out/small.safetensors --results $out/test/results.json --statement "$card"
