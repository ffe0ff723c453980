#!/usr/bin/env bash
# Lists every dataset found in DATA_ROOT as DATA_ROOT/NAME.json, which the other scripts read; CASIAv2's tampered
# images alone (Figure 4) as DATA_ROOT/CASIAv2_tampered.json.
# usage: DATA_ROOT=/folder/of/datasets shell/05_prepare.sh [flags of benco datasets]
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
exec benco datasets prepare all --root "$DATA_ROOT" "$@"
