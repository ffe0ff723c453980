#!/usr/bin/env bash
# CAT-Net protocol: trains on five sets; run again, it goes on where it stopped. `benco reproduce table3` tests as well.
# usage: DATA_ROOT=/folder/of/lists shell/21_train_catnet.sh [flags of benco train]      e.g. --gpus 8
# another model: add --model MVSSNet --output_dir runs/catnet_MVSSNet
set -euo pipefail

exec benco train --config catnet/train "$@"
