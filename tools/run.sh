#!/bin/bash
# What `make run` does once the packages are there: build, install the Debian
# distro, or its kernel, if it is not installed yet, boot it, run a command in it.
set -euo pipefail
build=$1

. "$(dirname "$0")/long.sh"
say() { printf '==> %s\n' "$*"; }

say "building"
[ -f "$build/build.ninja" ] || CC=gcc meson setup -Dtests=false "$build" >/dev/null
# --quiet, unless somebody can watch the count.
quiet=--quiet
[ ! -t 1 ] || quiet=
long building ninja -C "$build" $quiet

wslx=$build/wslx
if ! "$wslx" list -q | grep -qix debian; then
    say "installing Debian (root file system and kernel from the distribution's packages)"
    # Another task may have left package lists that are too old to download from.
    "$wslx" install debian
elif [ -z "$("$wslx" kernel list -q)" ]; then
    say "fetching Debian's kernel, which was removed"
    "$wslx" install debian
fi
say "starting it, and running a command in it"
start=$(date +%s.%N)
long starting "$wslx" -d debian -- 'echo "Hello from $(. /etc/os-release; echo $PRETTY_NAME), kernel $(uname -r), $(nproc) CPUs"'
end=$(date +%s.%N)
engine=$("$wslx" list --json | /usr/bin/python3 -c '
import json, sys
print(next((d.get("engine", "?") for d in json.load(sys.stdin)["distros"] if d["name"].lower() == "debian"), "?"))')
printf '==> engine %s, %.1f s from the command to its end\n' "$engine" \
    "$(awk -v a="$start" -v b="$end" 'BEGIN { print b - a }')"
cat <<TXT

Go on with:
    $wslx                        a shell in Debian
    $wslx -d debian -- CMD...    a command in it
    $wslx run debian -- CMD...   a throw-away machine over a copy of its disk
    $wslx terminate debian       stop it
    $wslx doctor                 what works on this host, and why
TXT
