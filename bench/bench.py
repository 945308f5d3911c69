#!/usr/bin/python3
"""Benchmarks: each line is a ratio against a peer or a physical limit taken in the same run.

usage: bench/bench.py [--build DIR] [--runs N] [import|exec|tcg|lab ...]
Natively: import, round trip of exec, `wslx run` on the tcg engine.  In the lab (one boot of it): start of the VMM, boot to HELLO against
QEMU microvm, the VMM's own memory, disk and network throughput against QEMU's devices.
"""

import argparse
import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tools"))
import children  # noqa: E402

PARTS = ["import", "exec", "tcg", "lab"]


def main():
    ap = argparse.ArgumentParser(prog="make bench")
    ap.add_argument("--build", default=os.path.join(TOP, "build-check"))
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("parts", nargs="*", help=" ".join(PARTS))
    args = ap.parse_args()
    for p in args.parts:
        if p not in PARTS:
            ap.error(f"unknown part '{p}'")
    parts = args.parts or PARTS
    env = dict(os.environ, WSLX_E2E_BUILD=args.build, WSLX_BENCH_RUNS=str(args.runs))
    if not os.path.exists(os.path.join(args.build, "build.ninja")):
        subprocess.run(["meson", "setup", args.build], cwd=TOP, env=dict(env, CC="gcc"), check=True,
                       stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", args.build, "--quiet"], check=True)
    subprocess.run([os.path.join(TOP, "tests/e2e/prepare.sh"), args.build], check=True)
    sh = children.Children()
    sh.catch_signals()
    bad = 0
    if "import" in parts:
        bad |= sh.run(["/usr/bin/python3", "bench/import.py", "--build", args.build, "--runs", str(args.runs),
                       os.path.join(args.build, "e2e/debian.tar")], cwd=TOP, env=env)
    if "exec" in parts:
        bad |= sh.run(["/usr/bin/python3", "bench/exec.py"], cwd=TOP, env=dict(env, WSLX_E2E_ENGINE="tcg"))
    if "tcg" in parts:
        bad |= sh.run(["/usr/bin/python3", "bench/tcg_run.py"], cwd=TOP, env=env)
    if "lab" in parts:
        bad |= sh.run(["lab/lab.py", "--timeout", "3600", "/usr/bin/python3 bench/inlab.py"], cwd=TOP,
                      env=dict(env, WSLX_E2E_ENGINE="kvm"))
    return 1 if bad else 0


sys.exit(main())
