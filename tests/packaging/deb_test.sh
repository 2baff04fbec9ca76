#!/usr/bin/env bash
# The Debian packages of this build: what is in them, what they depend on, and that programs run from
# where they would lie.  deb_test.sh BUILD
set -euo pipefail
build=$1
for tool in cpack dpkg-deb dpkg-shlibdeps; do
  command -v "$tool" >/dev/null || { echo "SKIPPED: $tool is missing"; exit 77; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# The weakest packing: it is the content that is looked at.
if ! cpack --config "$build/CPackConfig.cmake" -B "$dir/made" -D CPACK_DEBIAN_COMPRESSION_TYPE=gzip \
  >"$dir/log" 2>&1; then
  cat "$dir/log"
  exit 1
fi
fail() { echo "FAILED: $*"; exit 1; }
deb() { ls "$dir"/made/"$1"_*.deb; }
field() { dpkg-deb --field "$(deb "$1")" "$2"; }
has() {
  [ -f "$dir/contents-$1" ] || dpkg-deb --contents "$(deb "$1")" >"$dir/contents-$1"
  grep -q " \./$2\$" "$dir/contents-$1" || fail "$1 has no $2"
}

has tidegate usr/bin/tidegate
has tidegate usr/share/doc/tidegate/docs/operations.md
for program in onshore trainer gate link serve; do has tidegate-onshore usr/bin/tidegate-$program; done
has tidegate-onshore usr/lib/systemd/system/tidegate-onshore@.service
has tidegate-onshore usr/lib/sysusers.d/tidegate-onshore.conf
has tidegate-coordinator usr/bin/tidegate-coordinator
has tidegate-coordinator usr/lib/systemd/system/tidegate-coordinator.service
has tidegate-pretrain usr/bin/tidegate-pretrain
has tidegate-pretrain usr/bin/tidegate-simulate
has tidegate-pretrain usr/share/doc/tidegate-pretrain/examples/pretrain/slurm.sbatch
has libtidegate-dev usr/include/tidegate/tidegate.h
[ "$(ls "$dir"/made/*.deb | wc -l)" = 5 ] || fail "not five packages"

# Each shore's package depends on what its programs link, and no more than that.
field tidegate-onshore Depends | grep -q "tidegate (= " || fail "another version's verbs would do"
field tidegate-onshore Depends | grep -q "libzmq5" || fail "libzmq5 is not depended on"
if field tidegate-onshore Depends | grep -Eq "openmpi|libsqlite3|libpq"; then fail "a site needs a coordinator's libraries"; fi
field tidegate-pretrain Depends | grep -q openmpi || echo "no MPI in this build"

for package in tidegate tidegate-onshore tidegate-coordinator tidegate-pretrain; do
  dpkg-deb --extract "$(deb $package)" "$dir/root"
  dpkg-deb --control "$(deb $package)" "$dir/control-$package"
done
for script in "$dir"/control-*/{postinst,prerm,postrm}; do
  if [ -f "$script" ]; then sh -n "$script"; fi
done
grep -q "^u tidegate " "$dir/root/usr/lib/sysusers.d/tidegate-onshore.conf" || fail "no user of a site"
if grep -q coordinator "$dir/root/usr/lib/sysusers.d/tidegate-onshore.conf"; then fail "a site has the coordinator's user"; fi
grep -q "ExecStart=/usr/bin/tidegate-onshore " "$dir/root/usr/lib/systemd/system/tidegate-onshore@.service" ||
  fail "the unit names another program"
for program in "$dir"/root/usr/bin/*; do
  "$program" --help >/dev/null || fail "$program does not run"
  if readelf -d "$program" | grep -Eq "RPATH|RUNPATH"; then fail "$program looks for libraries in the build"; fi
done
"$dir/root/usr/bin/tidegate" generate --help >/dev/null || fail "the verbs do not find the trainer"
echo "five packages, $(du -ch "$dir"/made/*.deb | tail -n 1 | cut -f 1)"
