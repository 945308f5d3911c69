#!/usr/bin/python3
"""`wslx run` of a command in an installed distro on the tcg engine, against plain QEMU booting the same kernel and
the same root file system to its init.  Both whole processes, from start to end; alternating."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests/e2e"))
sys.path.insert(0, os.path.join(TOP, "bench"))
import conftest  # noqa: E402
import guest_work  # noqa: E402

RUNS = int(os.environ.get("WSLX_BENCH_RUNS", "5"))

# What any distribution's own initramfs does at the least: modules, the root disk, its init.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in $(cat /modules.load); do insmod $m 2>/dev/null; done
while [ ! -b /dev/vda ]; do usleep 10000; done
mkdir -p /root; mount -t ext4 /dev/vda /root
mount --move /dev /root/dev; mount --move /proc /root/proc; mount --move /sys /root/sys
exec switch_root /root /bin/sh -c 'echo INIT; sync; echo o >/proc/sysrq-trigger; sleep 60'
"""


def plain(kernel, initramfs, disk):
    start = time.monotonic()
    out = subprocess.run(["qemu-system-x86_64", "-M", "q35,accel=tcg", "-smp", "2", "-m", "1024", "-nodefaults",
                          "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", initramfs,
                          "-append", "console=ttyS0 quiet panic=-1 tsc=reliable", "-nic", "user,model=virtio-net-pci",
                          "-drive", f"file={disk},format=raw,if=virtio,snapshot=on"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120).stdout
    assert b"INIT" in out, out[-1000:]
    return time.monotonic() - start


def main():
    build = os.environ["WSLX_E2E_BUILD"]
    home = tempfile.mkdtemp(prefix="wslx-bench-")
    os.makedirs(home + "/data")
    shutil.copytree(build + "/e2e/home/data/kernels", home + "/data/kernels", symlinks=True)
    w = conftest.Wslx(home)
    w.env["WSLX_ENGINE"] = "tcg"
    try:
        w.ok("import", "bench", build + "/e2e/debian.tar", "--kernel", "cloud", "--size", "8G", timeout=900)
        kernels = home + "/data/kernels/cloud"
        work = guest_work.initramfs(kernels + "/initramfs.cpio", home + "/plain.cpio", INIT)
        disk = home + "/data/distros/bench/disk.img"
        ours, theirs = [], []
        for _ in range(RUNS + 1):
            start = time.monotonic()
            assert w.ok("run", "bench", "--cpus", "2", "--memory", "1G", "--", "echo INIT") == "INIT\n"
            ours.append(time.monotonic() - start)
            theirs.append(plain(kernels + "/bzImage", work, disk))
        a, b = statistics.median(ours[1:]), statistics.median(theirs[1:])
        print(f"{'run of a command, tcg engine':36} {a:10.3f} s      {b:10.3f} s      {a / b:6.2f}  "
              "plain QEMU to the distro's init (lower is better)")
    finally:
        w("shutdown", "--force")
        shutil.rmtree(home, ignore_errors=True)


signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the machines are stopped
main()
