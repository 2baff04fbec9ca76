#!/usr/bin/env bash
# What `make demo` does once all is built: the base model, imported once into the cache, then the demo.
set -euo pipefail
build=$1
if base=$("$(dirname "$0")/smollm2_base.sh" "$build"); then
  exec "$build/bin/tidegate-demo" --base "$base" --out "$build/demo"
fi
echo "SmolLM2 is not in the cache and could not be fetched. A tiny model with random weights stands in:" >&2
echo "it learns nothing, so losses and answers mean nothing; all else is shown as it is." >&2
exec "$build/bin/tidegate-demo" --base "$(dirname "$0")/../tests/golden/tiny_llama" --out "$build/demo" \
  --model "a tiny Llama with random weights" --untrained
