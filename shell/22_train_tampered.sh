#!/usr/bin/env bash
# Figure 4: trains on CASIAv2's tampered images alone; run again, it goes on where it stopped.
# usage: DATA_ROOT=/folder/of/lists shell/22_train_tampered.sh [flags of benco train]      e.g. --gpus 8
# another model: add --model MVSSNet --output_dir runs/tampered_MVSSNet
set -euo pipefail

exec benco train --config mvss/train_tampered "$@"
