#!/usr/bin/env bash
# Tables 5 and 6: tests the weights of 60_train_ablation.sh, on CASIAv1 or, for Table 5, all sets of the MVSS protocol.
# usage: DATA_ROOT=/folder/of/datasets shell/61_test_ablation.sh NAME|all [flags of benco test]      e.g. table6c_0.3
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
names="${1:?name a configuration, such as table6c_0.3, or all}"
[ "$names" = all ] && names="$(basename -s .yaml "$root"/benco_configs/table*.yaml)"
for name in $names; do
    case $name in
        table5*) sets="$root/benco_configs/mvss_sets.json" ;;
        *) sets="$DATA_ROOT/CASIAv1.json" ;;
    esac
    benco test --checkpoint_path "runs/$name" --test_data_path "$sets" --output_dir "runs/$name/test" \
        --experiment "${name/_//}" "${@:2}"
done
