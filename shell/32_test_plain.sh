#!/usr/bin/env bash
# The baseline of Tables 5 and 6: the weights of 20_train_mvss.sh without test-time augmentation.
# usage: DATA_ROOT=/folder/of/datasets shell/32_test_plain.sh [flags of benco test]
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco test --config mvss/test_plain "$@"
