#!/usr/bin/env bash
# Tables 5 and 6: the training of one of `benco configs ablation/`, or of each; run again, it goes on.
# usage: DATA_ROOT=/folder/of/datasets shell/60_train_ablation.sh NAME|all [flags of benco train]      e.g. ablation/table6#c/0.3
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
names="${1:?name a configuration, such as ablation/table6#c/0.3, or all}"
[ "$names" = all ] && names="$(benco configs ablation/ | cut -d ' ' -f 1)"
for name in $names; do
    benco train --config "$name" "${@:2}"
done
