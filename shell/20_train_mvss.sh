#!/usr/bin/env bash
# MVSS protocol: trains on CASIAv2; run again, it goes on where it stopped. `benco reproduce table2` tests as well.
# usage: DATA_ROOT=/folder/of/lists shell/20_train_mvss.sh [flags of benco train]      e.g. --gpus 8
# another model: add --model MVSSNet --output_dir runs/mvss_MVSSNet
set -euo pipefail

exec benco train --config mvss/train "$@"
