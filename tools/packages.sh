#!/bin/bash
# Installs the Debian packages that a task needs, if any is missing.
# usage: tools/packages.sh build|run|check ...
set -euo pipefail
. "$(dirname "$0")/long.sh"

build="gcc libc6-dev make meson ninja-build pkg-config musl-tools linux-libc-dev python3
  libjansson-dev libarchive-dev libext2fs-dev comerr-dev liburing-dev libseccomp-dev
  libzstd-dev liblzma-dev liblz4-dev zlib1g-dev libbz2-dev"
run="qemu-system-x86 passt mmdebstrap e2fsprogs kmod uidmap ca-certificates"
check="g++ clang clang-format clang-tidy libclang-rt-14-dev llvm libcmocka-dev python3-pytest python3-pytest-timeout
  busybox-static cpio acpica-tools zstd xz-utils bzip2 iproute2 strace fio iperf3 attr acl libcap2-bin"

want=""
for set in "$@"; do
    case $set in
    build | run | check) want="$want ${!set}" ;;
    *) echo "packages: unknown set '$set' (build, run, check)" >&2; exit 2 ;;
    esac
done

missing=""
for p in $want; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "packages: not root and no sudo; as root run: apt-get install$missing" >&2; exit 1; }
    sudo=sudo
fi
echo "packages: installing$missing"
export DEBIAN_FRONTEND=noninteractive
try() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Use-Pty=0 $missing >/dev/null; }
# The package lists may be absent or old: refresh them only when needed.
if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
    long "fetching package lists" $sudo apt-get update -qq
fi
quietly() { try 2>/dev/null; }
long "installing packages" quietly || { $sudo apt-get update -qq; long "installing packages" try; }
