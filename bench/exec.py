#!/usr/bin/python3
"""Round trip of `wslx -d NAME -e true` in a running machine, against the process's own time in the same guest
(fork, exec and wait of true, many times in a row there) and against connecting to the machine's vsock socket."""

import os
import signal
import statistics
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests/e2e"))
import conftest  # noqa: E402

RUNS = int(os.environ.get("WSLX_BENCH_RUNS", "5"))


def main():
    import shutil
    import tempfile
    build = os.environ["WSLX_E2E_BUILD"]
    home = tempfile.mkdtemp(prefix="wslx-bench-")
    os.makedirs(home + "/data")
    shutil.copytree(build + "/e2e/home/data/kernels", home + "/data/kernels", symlinks=True)
    w = conftest.Wslx(home)
    try:
        w.ok("import", "bench", build + "/e2e/debian.tar", "--kernel", "cloud", "--size", "8G", timeout=900)
        w.ok("-d", "bench", "-e", "true")
        own = []
        for _ in range(RUNS):
            out = w.ok("-d", "bench", "-e", "python3", "-c",
                       "import subprocess,time\ns=time.monotonic()\n"
                       "for i in range(20): subprocess.run(['/bin/true'])\nprint((time.monotonic()-s)/20*1000)")
            own.append(float(out))
        trip = []
        for _ in range(RUNS * 4):
            s = time.monotonic()
            subprocess.run([conftest.WSLX, "-d", "bench", "-e", "/bin/true"], env=w.env, check=True,
                           stdin=subprocess.DEVNULL)
            trip.append((time.monotonic() - s) * 1000)
        a, b = statistics.median(trip), statistics.median(own)
        print(f"{'exec true, round trip':36} {a:10.3f} ms     {b:10.3f} ms     {a / b:6.2f}  "
              f"fork, exec and wait inside the guest (difference {a - b:.1f} ms)")
    finally:
        w("shutdown", "--force")
        shutil.rmtree(home, ignore_errors=True)


signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the machines are stopped
main()
