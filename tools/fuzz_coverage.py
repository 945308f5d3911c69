#!/usr/bin/python3
"""Line coverage that each fuzz target's committed corpus reaches in the code it is meant for.

usage: tools/fuzz_coverage.py [TARGET...]
fuzz/sources.txt names, per target, the source files that count.
"""

import json
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(TOP, "build-fuzz-coverage")


def tool(name):
    for v in ("", "-14", "-15", "-16", "-19"):
        r = subprocess.run(["sh", "-c", f"command -v {name}{v}"], stdout=subprocess.PIPE, text=True)
        if r.returncode == 0:
            return r.stdout.strip()
    sys.exit(f"fuzz_coverage: {name} is missing: install llvm")


def sources():
    out = {}
    with open(os.path.join(TOP, "fuzz/sources.txt")) as f:
        for line in f:
            line = line.split("#")[0].split()
            if line:
                out[line[0].rstrip(":")] = [os.path.join(TOP, p) for p in line[1:]]
    return out


def main():
    flags = "-fprofile-instr-generate -fcoverage-mapping"
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        subprocess.run(["meson", "setup", BUILD, "-Dfuzz=true", "-Dtests=false", "-Db_lundef=false",
                        f"-Dc_args={flags}", f"-Dc_link_args={flags}"], cwd=TOP, check=True,
                       env=dict(os.environ, CC="clang"), stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", BUILD, "--quiet"], check=True)
    wanted = sources()
    bad = 0
    for name in sys.argv[1:] or sorted(wanted):
        exe = os.path.join(BUILD, "fuzz", "fuzz_" + name)
        raw = os.path.join(BUILD, name + ".profraw")
        prof = os.path.join(BUILD, name + ".profdata")
        r = subprocess.run([exe, "-runs=0", os.path.join(TOP, "fuzz/corpora", name)], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, env=dict(os.environ, LLVM_PROFILE_FILE=raw))
        if r.returncode:
            print(f"{name}: the target failed")
            bad = 1
            continue
        subprocess.run([tool("llvm-profdata"), "merge", "-o", prof, raw], check=True)
        out = subprocess.run([tool("llvm-cov"), "export", "-summary-only", f"-instr-profile={prof}", exe,
                              *wanted.get(name, [])], stdout=subprocess.PIPE, check=True).stdout
        lines = json.loads(out)["data"][0]["totals"]["lines"]
        print(f"{name:14} {lines['covered']:5} of {lines['count']:5} lines  {lines['percent']:5.1f} %")
    return bad


sys.exit(main())
