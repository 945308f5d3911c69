#!/usr/bin/python3
"""Runs fuzz targets for a while each, on their committed corpora, and reports coverage.

usage: tools/fuzz.py [--seconds N] [--merge] [--jobs N] [TARGET...]
New inputs go to build-fuzz/work/TARGET; --merge adds those that reach new
code to fuzz/corpora/TARGET.
"""

import argparse
import concurrent.futures
import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(TOP, "build-fuzz")
MAX_INPUT = 65536  # in a committed corpus


def run_one(name, seconds):
    exe = os.path.join(BUILD, "fuzz", "fuzz_" + name)
    corpus = os.path.join(TOP, "fuzz/corpora", name)
    work = os.path.join(BUILD, "work", name)
    os.makedirs(work, exist_ok=True)
    os.makedirs(corpus, exist_ok=True)
    log = os.path.join(BUILD, "work", name + ".log")
    with open(log, "w") as f:
        r = subprocess.run([exe, f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096", "-print_final_stats=1",
                            f"-artifact_prefix={BUILD}/work/{name}-", work, corpus],
                           stdout=f, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                           env=dict(os.environ, UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1")).returncode
    text = open(log, errors="replace").read()
    cov = re.findall(r"cov: (\d+)", text)
    execs = re.findall(r"stat::number_of_executed_units:\s+(\d+)", text)
    return name, r, cov[-1] if cov else "?", execs[-1] if execs else "?", log


def merge(name):
    """Adds what reaches more than the committed corpus does, the smallest inputs of it."""
    corpus = os.path.join(TOP, "fuzz/corpora", name)
    before = set(os.listdir(corpus))
    subprocess.run([os.path.join(BUILD, "fuzz", "fuzz_" + name), "-set_cover_merge=1", "-timeout=30", "-rss_limit_mb=4096", corpus,
                    os.path.join(BUILD, "work", name)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    for f in set(os.listdir(corpus)) - before:
        if os.path.getsize(os.path.join(corpus, f)) > MAX_INPUT:
            os.unlink(os.path.join(corpus, f))


def main():
    ap = argparse.ArgumentParser(prog="make fuzz")
    ap.add_argument("--seconds", type=int, default=300)
    ap.add_argument("--merge", action="store_true", help="add what is new to the committed corpora")
    ap.add_argument("--jobs", type=int, default=os.cpu_count())
    ap.add_argument("targets", nargs="*")
    args = ap.parse_args()
    env = dict(os.environ, CC="clang")
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        subprocess.run(["meson", "setup", BUILD, "-Dfuzz=true", "-Dtests=false", "-Db_sanitize=address,undefined",
                        "-Db_lundef=false"], cwd=TOP, env=env, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", BUILD, "--quiet", "fuzzers"], check=True)
    have = sorted(f[5:] for f in os.listdir(os.path.join(BUILD, "fuzz"))
                  if f.startswith("fuzz_") and os.path.isfile(os.path.join(BUILD, "fuzz", f)))
    for t in args.targets:
        if t not in have:
            ap.error(f"unknown target '{t}' (there are: {' '.join(have)})")
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for name, r, cov, execs, log in pool.map(lambda n: run_one(n, args.seconds), args.targets or have):
            print(f"{name:16} {'ok' if r == 0 else 'FOUND SOMETHING: ' + log:8}  edges {cov:>6}  runs {execs:>10}",
                  flush=True)
            bad += r != 0
            if args.merge and r == 0:
                merge(name)
    return 1 if bad else 0


sys.exit(main())
