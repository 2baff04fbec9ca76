#!/usr/bin/env bash
# What `make demo` does once all is built: the base model, imported once into the cache, then the demo.
set -euo pipefail
build=$1
base=$("$(dirname "$0")/smollm2_base.sh" "$build")
exec "$build/bin/tidegate-demo" --base "$base" --out "$build/demo"
