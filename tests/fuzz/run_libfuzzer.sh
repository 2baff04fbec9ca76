#!/usr/bin/env bash
# Runs each libFuzzer target of a build for so many seconds, one after the other.
#
#   run_libfuzzer.sh BUILD SECONDS [NAME…]
#
# What it finds new goes into BUILD/corpus/NAME and is where the next run begins. Ends with 1 where a
# target found something; its input is then in BUILD/crash-…, timeout-… or oom-….
set -u
build=$1 seconds=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
cd "$build" || exit 1
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for file in "$here"/*_fuzz.cc; do names+=("$(basename "$file" _fuzz.cc)"); done
fi
found=0
for name in "${names[@]}"; do
  corpus=("corpus/$name")
  mkdir -p "${corpus[0]}"
  [ -d "$here/corpus/$name" ] && corpus+=("$here/corpus/$name")
  log=corpus/$name.log
  if "bin/fuzz_$name" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 \
      -malloc_limit_mb=1024 -max_len=65536 -artifact_prefix="$name-" -print_final_stats=1 \
      "${corpus[@]}" >"$log" 2>&1; then
    printf '%-18s %s runs, %s edges\n' "$name" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
      "$(grep -o 'cov: [0-9]*' "$log" | tail -1 | cut -c6-)"
  else
    found=1
    printf '%-18s FOUND SOMETHING: %s\n' "$name" "$PWD/$log"
    grep -m3 -E 'ERROR|runtime error|does not hold|Test unit written' "$log"
  fi
done
exit $found
