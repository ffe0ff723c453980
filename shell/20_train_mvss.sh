#!/usr/bin/env bash
# MVSS protocol: trains on CASIAv2; run again, it goes on where it stopped.
# usage: DATA_ROOT=/folder/of/datasets shell/20_train_mvss.sh [flags of benco train]      e.g. --gpus 8
# another model: add --model MVSSNet --output_dir runs/mvss_MVSSNet
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco train --config mvss/train "$@"
