#!/usr/bin/python3
"""The part of the benchmarks that needs a real KVM; bench.py runs it in the lab.

Both monitors get the same vmlinux, initramfs, command line and devices, and all files are warm in memory.
Times in the lab are emulated: only the ratios mean anything.
"""

import os
import socket
import statistics
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests/guest"))
sys.path.insert(0, os.path.join(TOP, "bench"))
import child  # noqa: E402
import guest_work  # noqa: E402
import qemu_peer  # noqa: E402
from own_memory import private_kib, rss_beyond_guest  # noqa: E402

BUILD = os.environ["WSLX_E2E_BUILD"]
RUNS = int(os.environ.get("WSLX_BENCH_RUNS", "5"))
VMM = os.path.join(BUILD, "wslx-vmm")
KERNEL = os.path.join(BUILD, "e2e/home/data/kernels/cloud")
CMDLINE = "console=ttyS0 panic=-1 reboot=t tsc=reliable quiet"
WORK = os.environ.get("TMPDIR", "/tmp")
MEMORY = 512 << 20


def warm(*paths):
    for p in paths:
        with open(p, "rb") as f:
            while f.read(1 << 20):
                pass


def copy(src, name):
    """A private copy on the scratch disk: files of the 9p tree are slow to map."""
    dst = os.path.join(WORK, name)
    subprocess.run(["cp", src, dst], check=True)
    return dst


def row(name, ours, theirs, unit, peer, better="lower"):
    ratio = ours / theirs
    print(f"{name:36} {ours:10.3f} {unit:6} {theirs:10.3f} {unit:6} {ratio:6.2f}  {peer} ({better} is better)", flush=True)


def our_boot(kernel, initramfs, disk):
    path = os.path.join(WORK, "bench-vsock")
    if os.path.exists(path):
        os.unlink(path)
    net, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with child.Vmm(VMM, kernel, CMDLINE, initramfs=initramfs, memory=MEMORY, disks=[child.Disk(disk, "root")],
                   vsock_path=path, net=net) as vm:
        first = vm.wait_message(child.FIRST_ENTRY)
        m = vm.wait_message(child.CONNECT)
        mine, theirs = socket.socketpair()
        vm.send(child.CONNECT_OK, m.id, theirs.fileno())
        theirs.close()
        mine.settimeout(60)
        assert mine.recv(4096)
        hello = time.monotonic_ns()
        rss, private = rss_beyond_guest(vm.proc.pid, MEMORY), private_kib(vm.proc.pid, MEMORY)
        vm.send(child.STOP)
        vm.wait_exit()
        mine.close()
    peer.close()
    return (first.a - vm.spawned_ns) / 1e6, (hello - vm.spawned_ns) / 1e6, rss, private


def main():
    kernel = copy(os.path.join(KERNEL, "vmlinux"), "vmlinux")
    initramfs = copy(os.path.join(KERNEL, "initramfs.cpio"), "initramfs")
    disk = os.path.join(WORK, "bench.img")
    subprocess.run(["dd", "if=/dev/urandom", f"of={disk}", "bs=1M", "count=256"], check=True, stderr=subprocess.DEVNULL)
    warm(kernel, initramfs, VMM)
    print(f"{'':36} {'WSLX':>17} {'peer':>17}  ratio", flush=True)

    ours, theirs = [], []
    for _ in range(RUNS + 1):
        ours.append(our_boot(kernel, initramfs, disk))
        theirs.append(qemu_peer.boot_to_hello(kernel, initramfs, CMDLINE, disk, memory=MEMORY >> 20))
    ours, theirs = ours[1:], theirs[1:]  # the first of each warms what is left
    med = [statistics.median(x) for x in zip(*ours)]
    qmed = [statistics.median(x) for x in zip(*theirs)]
    row("boot, fork to HELLO", med[1], qmed[0], "ms", "QEMU microvm")
    print(f"{'  of it: fork to first vCPU entry':36} {med[0]:10.3f} ms")
    print(f"{'  of it: kernel and agent':36} {med[1] - med[0]:10.3f} ms")
    row("memory beyond the guest's, RSS", med[2], qmed[1], "KiB", "QEMU microvm")
    row("memory beyond the guest's, private", med[3], qmed[2], "KiB", "QEMU microvm")

    work = guest_work.initramfs(initramfs, os.path.join(WORK, "work.cpio"))
    a, b = [], []
    for _ in range(max(3, RUNS // 2)):
        a.append(guest_work.on_wslx(VMM, kernel, work, disk))
        b.append(guest_work.on_qemu(kernel, work, disk))
    for what in ("read", "write", "randread", "send", "receive"):
        x, y = (statistics.median(r[what] for r in runs if what in r) for runs in (a, b))
        row(f"{what}", x, y, "MiB/s", "QEMU's virtio device", "higher")


main()
