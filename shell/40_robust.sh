#!/usr/bin/env bash
# Figure 4: the weights of 22_train_tampered.sh under JPEG compression, blur and noise.
# usage: DATA_ROOT=/folder/of/lists shell/40_robust.sh [flags of benco robust]
# another model's curve: add --checkpoint_path runs/tampered_MVSSNet --output_dir runs/tampered_MVSSNet/robust
# all sets of a protocol: --test_data_path benco_configs/mvss/sets.json
set -euo pipefail

exec benco robust --config mvss/robust "$@"
