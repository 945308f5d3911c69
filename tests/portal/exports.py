#!/usr/bin/python3
"""What libportal exports is what portal.h declares, and a unit test names each of it.
usage: exports.py SOURCE-FOLDER LIBPORTAL.SO"""

import pathlib
import re
import subprocess
import sys

root, library = pathlib.Path(sys.argv[1]), sys.argv[2]
COMMENT_OR_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def code(path):
    return COMMENT_OR_TEXT.sub(" ", path.read_text())


def exported():
    """What libportal.map lets through."""
    nm = subprocess.run(["nm", "-D", "--defined-only", "--format=posix", library], stdout=subprocess.PIPE, text=True,
                        check=True).stdout
    symbols = (line.split()[:2] for line in nm.splitlines())
    return {name.split("@")[0] for name, kind in symbols if kind != "A"}


def words_of_tests():
    """Not of the programs of soaks: make check does not run those."""
    return {word for path in (root / "tests/unit").rglob("*.c") for word in re.findall(r"\w+", code(path))}


names = exported()
declared = set(re.findall(r"\b(portal_\w+)\(", code(root / "include/wslx/portal.h")))
problems = [f"{name}: exported, but not in portal.h" for name in sorted(names - declared)]
problems += [f"{name}: in portal.h, but not exported" for name in sorted(declared - names)]
problems += [f"{name}: no test in tests/unit names it" for name in sorted(names - words_of_tests())]
print("\n".join(problems) or f"{len(names)} functions, each with a test")
sys.exit(bool(problems))
