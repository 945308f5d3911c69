#!/usr/bin/python3
"""Does the explorer catch every mutant of the list?

usage: run_mutants.py SOURCE-ROOT CC
Copies the explored sources, takes one thing out of the copy, builds, and runs the scenario, which must fail.
"""

import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile

from mutants import MUTANTS

FILES = ["ring_tx.c", "ring_rx.c", "gate.c", "directory.c", "chan.c", "wait.c", "fanin.c", "arenas.c", "link.c", "connect.c", "listen.c",
         "heap.c"]
EXPLORER = ["main", "explore", "shims", "land", "scenarios", "rests", "fans", "doors", "handles"]


def main():
    top, cc = sys.argv[1], sys.argv[2:]
    here = os.path.join(top, "tests/explore")
    flags = ["-std=gnu17", "-D_GNU_SOURCE", "-DPORTAL_EXPLORE", "-O1", "-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-I" + os.path.join(top, "src"),
             "-I" + os.path.join(top, "include"), "-I" + here,
             "-include", os.path.join(here, "shims.h")]
    with tempfile.TemporaryDirectory(prefix="portal-mutants-") as tmp:
        def compile_one(src, obj, first=()):
            subprocess.run([*cc, *first, *flags, "-c", src, "-o", obj], check=True)
            return obj

        def mutant_objects(folder, file, text):
            """The explored objects with that text for that file; a header is in all of them."""
            os.makedirs(f"{folder}/portal")
            with open(f"{folder}/portal/{file}", "w") as f:
                f.write(text)
            if file.endswith(".h"):
                return [compile_one(os.path.join(top, "src/portal", f), f"{folder}/{f}.o", ["-I" + folder]) for f in FILES]
            return [compile_one(f"{folder}/portal/{file}", f"{folder}/{file}.o"), *[f"{tmp}/{o}.o" for o in FILES if o != file]]

        def mutant(i):
            name, file, old, new, scenario = MUTANTS[i]
            with open(os.path.join(top, "src/portal", file)) as f:
                text = f.read()
            # The list says what, not how it is laid out.
            pattern = r"\s+".join(re.escape(w) for w in old.split())
            text, n = re.subn(pattern, lambda m: new, text, count=1)
            if not n:
                return f"{name}: does not apply to {file}"
            exe = f"{tmp}/m{i}"
            objs = mutant_objects(f"{tmp}/mutant{i}", file, text)
            subprocess.run([*cc, *objs, *[f"{tmp}/{o}.o" for o in EXPLORER], "-lpthread", "-o", exe], check=True)
            try:
                r = subprocess.run([exe, scenario], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
            except subprocess.TimeoutExpired:
                return f"{name}: no end"
            line = r.stdout.splitlines()[0] if r.stdout else "?"
            print(f"{name}: {line}", flush=True)
            return None if r.returncode == 1 and "run " in line else f"{name}: MISSED by {scenario}"

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda f: compile_one(os.path.join(top, "src/portal", f), f"{tmp}/{f}.o"), FILES))
            list(pool.map(lambda f: compile_one(os.path.join(here, f + ".c"), f"{tmp}/{f}.o"), EXPLORER))
            bad = [b for b in pool.map(mutant, range(len(MUTANTS))) if b]
    for b in bad:
        print(b)
    print(f"{len(MUTANTS) - len(bad)} of {len(MUTANTS)} mutants caught")
    return 1 if bad else 0


sys.exit(main())
