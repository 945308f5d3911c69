#!/usr/bin/python3
"""Line coverage that each fuzz target's committed corpus reaches in the code it is meant for.

usage: tools/fuzz_coverage.py [--files] [--missing] [--corpora DIR] [--min PERCENT] [TARGET...]
fuzz/sources.txt names, per target, the source files that count.  --missing lists the lines not reached;
with --min the exit status says whether every target reaches that much.
"""

import argparse
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
                out[line[0].rstrip(":")] = line[1:]
    return out


def targets():
    return sorted(f[5:-2] for f in os.listdir(os.path.join(TOP, "fuzz/targets"))
                  if f.startswith("fuzz_") and f.endswith(".c"))


def build(jobs):
    flags = "-fprofile-instr-generate -fcoverage-mapping"
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        subprocess.run(["meson", "setup", BUILD, "-Dfuzz=true", "-Dtests=false", "-Db_lundef=false",
                        f"-Dc_args={flags}", f"-Dc_link_args={flags}"], cwd=TOP, check=True,
                       env=dict(os.environ, CC="clang"), stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", BUILD, "--quiet", f"-j{jobs}", "fuzzers"], check=True)


def measure(name, corpora):
    """llvm-cov's rows by source file, or None if the target failed."""
    exe = os.path.join(BUILD, "fuzz", "fuzz_" + name)
    raw = os.path.join(BUILD, name + ".profraw")
    prof = os.path.join(BUILD, name + ".profdata")
    r = subprocess.run([exe, "-runs=0", "-timeout=60", "-rss_limit_mb=4096", os.path.join(corpora, name)],
                       cwd=BUILD, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       env=dict(os.environ, LLVM_PROFILE_FILE=raw))
    if r.returncode:
        return None
    subprocess.run([tool("llvm-profdata"), "merge", "-o", prof, raw], check=True)
    # Chosen here and not by llvm-cov: it takes every file when no name matches, and ninja's names hold "..".
    out = subprocess.run([tool("llvm-cov"), "export", "-summary-only", f"-instr-profile={prof}", exe],
                         stdout=subprocess.PIPE, check=True).stdout
    return {os.path.relpath(os.path.normpath(f["filename"]), TOP): f for f in json.loads(out)["data"][0]["files"]}


def print_missing(name, files):
    out = subprocess.run([tool("llvm-cov"), "show", f"-instr-profile={os.path.join(BUILD, name + '.profdata')}",
                          os.path.join(BUILD, "fuzz", "fuzz_" + name)],
                         stdout=subprocess.PIPE, text=True, errors="replace", check=True).stdout
    wanted = False
    for line in out.splitlines():
        cell = line.split("|", 2)
        if line.startswith("/"):
            path = os.path.relpath(os.path.normpath(line.rstrip(":")), TOP)
            wanted = path in files
            if wanted:
                print(f"  {path}")
        elif wanted and len(cell) == 3 and cell[1].strip() == "0":
            print(f"    {cell[0].strip():>5} {cell[2]}")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--files", action="store_true", help="one row a file as well")
    ap.add_argument("--missing", action="store_true", help="the lines not reached")
    ap.add_argument("--corpora", default=os.path.join(TOP, "fuzz/corpora"))
    ap.add_argument("--min", type=float, default=0, metavar="PERCENT")
    ap.add_argument("--jobs", type=int, default=os.cpu_count())
    ap.add_argument("targets", nargs="*")
    args = ap.parse_args()
    have, wanted = targets(), sources()
    for t in args.targets:
        if t not in have:
            ap.error(f"unknown target '{t}' (there are: {' '.join(have)})")
    build(args.jobs)
    bad = 0
    print(f"{'target':14} inputs  lines reached  percent", flush=True)
    for name in args.targets or have:
        files = wanted.get(name)
        if not files:
            print(f"{name:14} not in fuzz/sources.txt")
            bad += 1
            continue
        rows = measure(name, args.corpora)
        if rows is None:
            print(f"{name:14} the target failed on its corpus")
            bad += 1
            continue
        lines = {f: rows[f]["summary"]["lines"] if f in rows else None for f in files}
        total = sum(n["count"] for n in lines.values() if n)
        reached = sum(n["covered"] for n in lines.values() if n)
        percent = 100 * reached / max(total, 1)
        odd = [f for f in files if not lines[f]]
        notes = ["too little"] if percent < args.min else []
        notes += ["not in the target: " + " ".join(odd)] if odd else []
        print(f"{name:14} {len(os.listdir(os.path.join(args.corpora, name))):6} {total:6} {reached:7}  {percent:5.1f} %"
              f"  {'; '.join(notes)}".rstrip(), flush=True)
        bad += bool(notes)
        if args.files:
            for f, n in lines.items():
                if n:
                    print(f"  {f:42} {n['count']:6} {n['covered']:7}  {n['percent']:5.1f} %")
        if args.missing:
            print_missing(name, files)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
