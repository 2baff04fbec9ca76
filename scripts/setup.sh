#!/usr/bin/env bash
# Installs what the build and the tests need on Debian 12, by package name. Does nothing when all is there.
set -euo pipefail
# chromium: opens the status page in a test.
# ocl-icd-opencl-dev: oneDNN's CMake package asks for OpenCL, which nothing here uses.
# libopenmpi-dev, openmpi-bin: ranks of a cluster; the build goes without, their tests are then skipped by name.
packages=(
  g++ cmake ninja-build pkg-config git ccache clang-format python3 python3-pip openssl
  libssl-dev libsqlite3-dev libpq-dev postgresql libfmt-dev libexpected-dev libcereal-dev nlohmann-json3-dev
  libtomlplusplus-dev libcli11-dev libzmq3-dev libseccomp-dev libdnnl-dev ocl-icd-opencl-dev libhwy-dev
  libzstd-dev libutf8proc-dev libpcre2-dev libgtest-dev libgmock-dev libbenchmark-dev
  libcpp-httplib-dev libjs-chart.js chromium python3-dev pybind11-dev libopenmpi-dev openmpi-bin
)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]}"
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
