#!/usr/bin/env bash
# CAT-Net protocol: tests the weights of 21_train_catnet.sh on the six test sets.
# usage: DATA_ROOT=/folder/of/datasets shell/31_test_catnet.sh [flags of benco test]
# another model's row: add --checkpoint_path runs/catnet_MVSSNet --model MVSSNet --output_dir runs/catnet_MVSSNet/test
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco test --config catnet/test "$@"
