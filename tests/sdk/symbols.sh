#!/usr/bin/env bash
# symbols.sh LIBRARY LIST ROOT: LIBRARY exports what LIST has and nothing else, and that is what the header
# declares. A name that is gone from LIST breaks programs that were built before: raise TG_ABI_VERSION then.
set -euo pipefail
exported=$(nm -D --defined-only --format=posix "$1" | awk '$2 != "A" {print $1}' | sed 's/@.*//' | LC_ALL=C sort -u)
declared=$(grep -oE '\btg_[a-z_]+\(' "$3/src/sdk/include/tidegate/tidegate.h" | tr -d '(' | LC_ALL=C sort -u)
diff <(LC_ALL=C sort -u "$2") <(echo "$exported") || { echo "exported symbols differ from $2" >&2; exit 1; }
diff <(echo "$declared") <(echo "$exported") || { echo "the header declares other functions than are exported" >&2; exit 1; }
