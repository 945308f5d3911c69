#!/usr/bin/python3
"""The example: a broker, a server, a client.  usage: example.py BROKER SERVER CLIENT"""

import os
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory(prefix="portal-example-") as tmp:
    # Where a region of that name is looked for.
    os.makedirs(os.path.join(tmp, "run/portal"), mode=0o700)
    os.environ["WSLX_HOME"] = tmp
    sock = os.path.join(tmp, "run/portal/example.sock")
    broker = subprocess.Popen([sys.argv[1], sock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert broker.stdout.readline() == "ready\n"
    server = subprocess.Popen([sys.argv[2], "example"])
    try:
        out = subprocess.run([sys.argv[3], "example"], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
        assert out == "42\n1999998\n", out
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        broker.stdin.close()
        assert broker.wait(timeout=60) == 0
