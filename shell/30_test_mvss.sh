#!/usr/bin/env bash
# MVSS protocol: tests the weights of 20_train_mvss.sh on the seven test sets.
# usage: DATA_ROOT=/folder/of/datasets shell/30_test_mvss.sh [flags of benco test]
# another model's row: add --checkpoint_path runs/mvss_MVSSNet --model MVSSNet --output_dir runs/mvss_MVSSNet/test
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco test --config mvss/test "$@"
