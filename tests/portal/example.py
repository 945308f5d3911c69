#!/usr/bin/python3
"""The example: a broker, a server, a client.  usage: example.py BROKER SERVER CLIENT"""

import os
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory(prefix="portal-example-") as tmp:
    sock = os.path.join(tmp, "sock")
    broker = subprocess.Popen([sys.argv[1], sock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert broker.stdout.readline() == "ready\n"
    server = subprocess.Popen([sys.argv[2], sock])
    try:
        out = subprocess.run([sys.argv[3], sock], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
        assert out == "42\n1999998\n", out
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        broker.stdin.close()
        assert broker.wait(timeout=60) == 0
