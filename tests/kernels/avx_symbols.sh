#!/bin/sh
# Objects compiled for AVX2 or AVX-512 must define no weak symbol (an inline function, a template):
# the linker might keep that copy for the whole program, which would then stop on older machines.
# usage: avx_symbols.sh object...
seen=0
status=0
for object in "$@"; do
  case "$object" in
    *avx2*.o | *avx512*.o) ;;
    *) continue ;;
  esac
  seen=$((seen + 1))
  weak=$(nm -C "$object" | grep -E ' [WVu] ' | grep -v 'DW.ref.__gxx_personality_v0')
  if [ -n "$weak" ]; then
    echo "$object defines: $weak"
    status=1
  fi
done
if [ "$seen" -lt 4 ]; then
  echo "only $seen AVX objects were given"
  status=1
fi
exit $status
