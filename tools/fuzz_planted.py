#!/usr/bin/python3
"""Does each fuzz target find a bug planted in the code it tests?

usage: tools/fuzz_planted.py [--seconds N] [--seed N] [--jobs N] [--tree DIR] [TARGET...]
fuzz/planted/TARGET.patch plants one bug in a copy of the tree; its first lines say which.  The target must be
silent on its committed corpus without the bug, and started from that corpus it must find a fault within the time
with it.  The tree itself is not touched.
"""

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PLANTED = os.path.join(TOP, "fuzz/planted")


def targets():
    return sorted(f[5:-2] for f in os.listdir(os.path.join(TOP, "fuzz/targets"))
                  if f.startswith("fuzz_") and f.endswith(".c"))


def described(patch):
    """The lines in front of the diff."""
    with open(patch) as f:
        return " ".join(re.split(r"(?m)^(?:---|diff) ", f.read())[0].split()) or "?"


def copy_tree(to):
    """Makes `to` the same.  What differs becomes newer than what was built from it, a bug left behind too."""
    names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=TOP, check=True,
                           stdout=subprocess.PIPE).stdout.decode().split("\0")
    names = {n for n in names if n and os.path.isfile(os.path.join(TOP, n))}
    for folder, _, files in os.walk(to):
        for f in files:
            if os.path.relpath(os.path.join(folder, f), to) not in names:
                os.unlink(os.path.join(folder, f))
    for name in names:
        src, dst = os.path.join(TOP, name), os.path.join(to, name)
        if not os.path.exists(dst) or not filecmp.cmp(src, dst, shallow=False):
            os.makedirs(os.path.dirname(dst), exist_ok=True)
            shutil.copy(src, dst)


class Failed(Exception):
    pass


def run(argv, what, **kw):
    r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       errors="replace", **kw)
    if r.returncode:
        sys.stderr.write(r.stdout[-3000:])
        raise Failed(what)


def fuzz(exe, corpus, where, seconds, more):
    """(return code, seconds, its output)"""
    start = time.monotonic()
    with open(os.path.join(where, "log"), "w+", errors="replace") as log:
        try:
            r = subprocess.run([exe, "-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1",
                                f"-artifact_prefix={where}/", *more, corpus], cwd=where, timeout=seconds + 120,
                               stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                               env=dict(os.environ, UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")).returncode
        except subprocess.TimeoutExpired:
            r = 0
        log.seek(0)
        return r, time.monotonic() - start, log.read()


def fault(text):
    """What was found: the sanitizer's word, and the first line of ours in the trace."""
    m = re.findall(r"(?m)^SUMMARY: (\w+): (.*)$", text)
    if not m:
        return None
    kind = m[0][1].split(" ")[0]
    if m[0][0] == "libFuzzer" and kind == "deadly":
        kind = "abort"
    place = re.findall(r"(?m)^ *#\d+ \S+ in \S+ \S*?((?:src|fuzz/targets)/[\w/.]+:\d+)", text)
    return kind + (" at " + place[0] if place else "")


def one(name, tree, build, args):
    """(found, text, seconds, runs); text says whether the corpus alone did it."""
    patch = os.path.join(PLANTED, name + ".patch")
    corpus = os.path.join(TOP, "fuzz/corpora", name)
    exe = os.path.join(build, "fuzz", "fuzz_" + name)
    ninja = ["ninja", "-C", build, f"-j{args.jobs}", f"fuzz/fuzz_{name}"]
    if not os.path.exists(patch):
        raise Failed("no bug is planted")
    if not os.path.isdir(corpus):
        raise Failed("no corpus")
    run(ninja, "does not build")
    with tempfile.TemporaryDirectory(prefix="wslx-planted-") as where:
        r, _, text = fuzz(exe, corpus, where, 300, ["-runs=0"])
        if r:
            raise Failed("fails on its corpus without the bug: " + (fault(text) or f"status {r}"))
    run(["patch", "-p1", "-F0", "-i", patch], "the patch does not apply", cwd=tree)
    try:
        run(ninja, "does not build with the bug")
        with tempfile.TemporaryDirectory(prefix="wslx-planted-") as where:
            # New inputs go to the first folder: a copy, lest they land in the committed one.
            own = os.path.join(where, "corpus")
            shutil.copytree(corpus, own)
            r, took, text = fuzz(exe, own, where, args.seconds, [f"-max_total_time={args.seconds}"] +
                                 ([f"-seed={args.seed}"] if args.seed is not None else []))
    finally:
        run(["patch", "-p1", "-R", "-i", patch], "the patch cannot be taken back", cwd=tree)
    runs = re.findall(r"stat::number_of_executed_units:\s+(\d+)", text)
    what = fault(text)
    found = bool(r and what)
    runs = runs[-1] if runs else "?"
    # libFuzzer says INITED when it has been through the corpus.
    by = "by mutation" if re.search(r"(?m)^#\d+\s+INITED", text) else "by the corpus"
    return found, f"{by}, {what}" if found else "not found", took, runs


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seconds", type=int, default=120, help="for each target, at most")
    ap.add_argument("--seed", type=int, help="the fuzzers' seed, for the same run again")
    ap.add_argument("--jobs", type=int, default=os.cpu_count(), help="for the compiler")
    ap.add_argument("--tree", help="keep the copy of the tree there, for the next time")
    ap.add_argument("targets", nargs="*")
    args = ap.parse_args()
    have = targets()
    for t in args.targets:
        if t not in have:
            ap.error(f"unknown target '{t}' (there are: {' '.join(have)})")
    top = args.tree or tempfile.mkdtemp(prefix="wslx-planted-")
    missed = []
    try:
        tree, build = os.path.join(top, "tree"), os.path.join(top, "build")
        os.makedirs(tree, exist_ok=True)
        copy_tree(tree)
        if not os.path.exists(os.path.join(build, "build.ninja")):
            run(["meson", "setup", build, tree, "-Dfuzz=true", "-Dtests=false", "-Db_sanitize=address,undefined",
                 "-Db_lundef=false"], "meson failed", env=dict(os.environ, CC="clang"))
        print(f"{'target':12} {'seconds':>7} {'runs':>8}  what, and the bug planted", flush=True)
        for name in args.targets or have:
            patch = os.path.join(PLANTED, name + ".patch")
            try:
                found, what, took, runs = one(name, tree, build, args)
                print(f"{name:12} {took:7.1f} {runs:>8}  {'found' if found else 'MISSED'}: {what}")
            except Failed as e:
                found = False
                print(f"{name:12} {'-':>7} {'-':>8}  FAILED: {e}")
            if os.path.exists(patch):
                print(f"{'':30} {described(patch)}", flush=True)
            if not found:
                missed.append(name)
    except Failed as e:
        sys.exit(f"fuzz_planted: {e}")
    finally:
        if not args.tree:
            shutil.rmtree(top, ignore_errors=True)
    print(f"{len(args.targets or have) - len(missed)} found" + (", not: " + " ".join(missed) if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
