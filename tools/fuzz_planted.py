#!/usr/bin/python3
"""Does each fuzz target find a bug planted in the code it tests?

usage: tools/fuzz_planted.py [--seconds N] [TARGET...]
fuzz/planted/TARGET.patch takes one check out of a copy of the tree; the target, started from its committed
corpus, must then find a fault within the time.  The tree itself is not touched.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seconds", type=int, default=120)
    ap.add_argument("targets", nargs="*")
    args = ap.parse_args()
    planted = os.path.join(TOP, "fuzz/planted")
    missed = 0
    for name in args.targets or sorted(f[:-6] for f in os.listdir(planted) if f.endswith(".patch")):
        with tempfile.TemporaryDirectory(prefix="wslx-planted-") as tmp:
            tree = os.path.join(tmp, "tree")
            os.mkdir(tree)
            subprocess.run("git ls-files -z | tar --null -T - -cf - | tar -xf - -C " + tree, shell=True, cwd=TOP, check=True)
            subprocess.run(["patch", "-p1", "-s", "-i", os.path.join(planted, name + ".patch")], cwd=tree, check=True)
            build = os.path.join(tmp, "build")
            subprocess.run(["meson", "setup", build, tree, "-Dfuzz=true", "-Dtests=false",
                            "-Db_sanitize=address,undefined", "-Db_lundef=false"], check=True,
                           stdout=subprocess.DEVNULL, env=dict(os.environ, CC="clang"))
            subprocess.run(["ninja", "-C", build, "--quiet", f"fuzz/fuzz_{name}"], check=True)
            corpus = os.path.join(tmp, "corpus")
            shutil.copytree(os.path.join(TOP, "fuzz/corpora", name), corpus)
            r = subprocess.run([os.path.join(build, "fuzz", "fuzz_" + name), f"-max_total_time={args.seconds}",
                                "-timeout=20", "-rss_limit_mb=4096", f"-artifact_prefix={tmp}/", corpus],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
                               env=dict(os.environ, UBSAN_OPTIONS="halt_on_error=1"))
            summary = [l for l in r.stderr.splitlines() if l.startswith("SUMMARY")]
            print(f"{name:14} {'found: ' + summary[0][9:] if r.returncode and summary else 'MISSED'}", flush=True)
            missed += not (r.returncode and summary)
    return 1 if missed else 0


sys.exit(main())
