#!/usr/bin/env bash
# Tables 6e and 7: the weights of 20_train_mvss.sh under other sampling settings.
# usage: DATA_ROOT=/folder/of/datasets shell/50_sweep.sh [flags of benco sweep]
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco sweep --config mvss/sweep "$@"
