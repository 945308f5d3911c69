#!/bin/bash
# Makes what the end-to-end suites of both engines share, once: a Debian root
# file system with a compiler and a small local package archive, and the
# distribution's two kernel packages, added to a kernel store.
# usage: tests/e2e/prepare.sh BUILD-DIR
set -euo pipefail
build=$(realpath "$1")
dir=$build/e2e
mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9

if [ ! -e "$dir/debian.tar" ]; then
    rm -rf "$dir/repo"
    mkdir -p "$dir/repo"
    (cd "$dir/repo" && apt-get download -qq hello 2>/dev/null || { apt-get update -qq && apt-get download -qq hello; })
    # A flat local archive, as apt reads it: the control fields and three more per package.
    for deb in "$dir"/repo/*.deb; do
        dpkg-deb -f "$deb"
        printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$(basename "$deb")" "$(stat -c %s "$deb")" \
            "$(sha256sum "$deb" | cut -d' ' -f1)"
    done >"$dir/repo/Packages"
    mmdebstrap --quiet --variant=apt --include=gcc,libc6-dev,make,iproute2,procps,bash,sudo,python3-minimal,mount,kmod \
        --customize-hook="copy-in $dir/repo /srv" \
        --customize-hook='chroot "$1" useradd -m -s /bin/bash -G sudo tester' \
        bookworm "$dir/debian.tar.tmp.tar"
    mv "$dir/debian.tar.tmp.tar" "$dir/debian.tar"
fi

for flavour in cloud standard; do
    case $flavour in
    cloud) meta=linux-image-cloud-amd64 ;;
    standard) meta=linux-image-amd64 ;;
    esac
    pkg=$(apt-cache depends $meta | awk '/Depends: linux-image-/ { print $2; exit }')
    if ! ls "$dir/$flavour"/*.deb >/dev/null 2>&1; then
        rm -rf "${dir:?}/$flavour.tmp"
        mkdir -p "$dir/$flavour.tmp"
        (cd "$dir/$flavour.tmp" && apt-get download -qq "$pkg" 2>/dev/null)
        mv "$dir/$flavour.tmp" "$dir/$flavour"
    fi
    if ! WSLX_HOME=$dir/home "$build/wslx" kernel list -q | grep -qx "$flavour"; then
        WSLX_HOME=$dir/home "$build/wslx" kernel add "$dir/$flavour"/*.deb --name "$flavour"
    fi
done
