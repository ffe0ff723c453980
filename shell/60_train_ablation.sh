#!/usr/bin/env bash
# Tables 5 and 6: one training of benco_configs/table*.yaml.
# usage: DATA_ROOT=/folder/of/datasets shell/60_train_ablation.sh NAME [flags of benco train]      e.g. table6c_0.3
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco train --config "${1:?name a configuration, such as table6c_0.3}" "${@:2}"
