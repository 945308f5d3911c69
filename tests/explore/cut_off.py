#!/usr/bin/python3
"""A scenario of which not all runs were tried has not passed, and says so.

usage: cut_off.py EXPLORE
"""

import subprocess
import sys

for runs, status, words in (("100", 2, "CUT OFF, not all"), ("2000000", 0, "runs, all with at most")):
    r = subprocess.run([sys.argv[1], "records", runs], stdout=subprocess.PIPE, text=True, timeout=60)
    if r.returncode != status or words not in r.stdout:
        sys.exit(f"{runs} runs: status {r.returncode}: {r.stdout}")
