#!/usr/bin/env bash
# Tables 5 and 6: the training of benco_configs/NAME.yaml, or of each table*.yaml there; run again, it goes on.
# usage: DATA_ROOT=/folder/of/datasets shell/60_train_ablation.sh NAME|all [flags of benco train]      e.g. table6c_0.3
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
names="${1:?name a configuration, such as table6c_0.3, or all}"
[ "$names" = all ] && names="$(basename -s .yaml "$root"/benco_configs/table*.yaml)"
for name in $names; do
    benco train --config "$name" "${@:2}"
done
