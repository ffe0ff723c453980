#!/usr/bin/env bash
# Lists every dataset found below DATA_ROOT as DATA_ROOT/NAME.json, which the other scripts read.
# usage: DATA_ROOT=/folder/of/datasets shell/05_prepare.sh
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
for name in CASIAv2 FantasticReality tamperedCOCO compRAISE CASIAv1 COVERAGE Columbia NIST16 IMD2020 CocoGlide AutoSplice; do
    if [[ -d "$DATA_ROOT/$name" ]]; then
        benco datasets prepare "$name" --root "$DATA_ROOT"
    fi
done
