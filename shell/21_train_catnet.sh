#!/usr/bin/env bash
# CAT-Net protocol: trains on five sets; run again, it goes on where it stopped.
# usage: DATA_ROOT=/folder/of/datasets shell/21_train_catnet.sh [flags of benco train]      e.g. --gpus 8
# another model: add --model MVSSNet --output_dir runs/catnet_MVSSNet
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco train --config catnet/train "$@"
