#!/usr/bin/env bash
# Tables 5 and 6: tests the weights of 60_train_ablation.sh, on CASIAv1 or, for Table 5, all sets of the MVSS protocol.
# usage: DATA_ROOT=/folder/of/datasets shell/61_test_ablation.sh NAME|all [flags of benco test]      e.g. ablation/table6#c/0.3
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
names="${1:?name a configuration, such as ablation/table6#c/0.3, or all}"
[ "$names" = all ] && names="$(benco configs ablation/ | cut -d ' ' -f 1)"
for name in $names; do
    row="${name#ablation/}"
    case $row in
        table5*) row="${row/\#//}" sets="$root/benco_configs/mvss/sets.json" ;;
        *) row="${row/\#/}" sets="$DATA_ROOT/CASIAv1.json" ;;
    esac
    benco test --checkpoint_path "runs/$row" --test_data_path "$sets" --output_dir "runs/$row/test" \
        --experiment "$row" "${@:2}"
done
