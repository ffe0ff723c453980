#!/usr/bin/env bash
# Tables 5 and 6: tests the weights of 60_train_ablation.sh on the sets of the MVSS protocol.
# usage: DATA_ROOT=/folder/of/datasets shell/61_test_ablation.sh NAME [flags of benco test]      e.g. table6c_0.3
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
name="${1:?name a configuration, such as table6c_0.3}"
exec benco test --checkpoint_path "runs/$name" --output_dir "runs/$name/test" --experiment "${name/_//}" \
    --test_data_json "$root/benco_configs/mvss_sets.json" "${@:2}"
