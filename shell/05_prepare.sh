#!/usr/bin/env bash
# Lists every dataset found below DATA_ROOT as DATA_ROOT/NAME.json, which the other scripts read; CASIAv2's tampered
# images alone (Figure 4) as DATA_ROOT/CASIAv2_tampered.json.
# usage: DATA_ROOT=/folder/of/datasets shell/05_prepare.sh
set -euo pipefail

: "${DATA_ROOT:?set it to the folder that holds the datasets}"
failed=()
for name in CASIAv2 FantasticReality tamperedCOCO compRAISE CASIAv1 COVERAGE Columbia NIST16 IMD2020 CocoGlide AutoSplice; do
    if [[ -d "$DATA_ROOT/$name" ]]; then
        benco datasets prepare "$name" --root "$DATA_ROOT" || failed+=("$name")
    else
        echo "left out, since not there: $DATA_ROOT/$name" >&2
    fi
done
if [[ -d "$DATA_ROOT/CASIAv2" ]]; then
    benco datasets prepare CASIAv2 --root "$DATA_ROOT" --tampered_only || failed+=("CASIAv2, tampered only")
fi
if (( ${#failed[@]} )); then
    printf 'not listed, for the reason above: %s\n' "${failed[@]}" >&2
    exit 1
fi
