#!/usr/bin/python3
"""The part of the benchmarks that needs a real KVM; bench.py runs it in the lab.

Both monitors get the same vmlinux, initramfs, command line and devices, and all files are warm in memory.
Times in the lab are emulated: only the ratios mean anything.

Rows are printed as soon as they are measured.  Runs without a result are repeated (tries.py), which is said below the rows.
Exit status: 0 if every row is there.
"""

import os
import re
import socket
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
from tries import Failed, Side, alternate  # noqa: E402

BUILD = os.environ["WSLX_E2E_BUILD"]
RUNS = int(os.environ.get("WSLX_BENCH_RUNS", "5"))
VMM = os.path.join(BUILD, "wslx-vmm")
KERNEL = os.path.join(BUILD, "e2e/home/data/kernels/cloud")
WORK = os.environ.get("TMPDIR", "/tmp")
MEMORY = 512 << 20
# Seconds from fork to HELLO.  On a busy machine the slowest take 10.
LIMIT = 60
NAMES = "WSLX", "the peer"


def default_cmdline():
    """What the kvm engine gives every kernel (src/boot/cmdline.c); the peer gets the same."""
    with open(os.path.join(TOP, "src/boot/cmdline.c")) as f:
        parts = re.search(r"defaults\[\] = (.*?);", f.read(), re.S)[1]
    return "".join(re.findall(r'"([^"]*)"', parts))


CMDLINE = default_cmdline()


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


class Table:
    def __init__(self):
        self.missing = 0
        print(f"{'':36} {'WSLX':>17} {'peer':>17}  ratio", flush=True)

    def row(self, name, ours, theirs, unit, peer, better="lower"):
        cells = " ".join(f"{v:10.3f} {unit:6}" if v is not None else f"{'-':>10} {'':6}" for v in (ours, theirs))
        ratio = "     -" if ours is None or theirs is None else f"{ours / theirs:6.2f}"
        lost = " and ".join(n for n, v in zip(NAMES, (ours, theirs)) if v is None)
        print(f"{name:36} {cells} {ratio}  {peer} ({better} is better)" + (f": nothing measured of {lost}" if lost else ""),
              flush=True)

    def notes(self, *sides):
        for s in sides:
            self.missing += s.gave_up()
            for line in s.notes():
                print(f"    {line}", flush=True)


def our_boot(kernel, initramfs, disk):
    path = os.path.join(WORK, "bench-vsock")
    if os.path.exists(path):
        os.unlink(path)
    net, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    mine, theirs = socket.socketpair()
    with net, peer, mine, theirs, child.Vmm(VMM, kernel, CMDLINE, initramfs=initramfs, memory=MEMORY, vsock_path=path, net=net,
                                            disks=[child.Disk(disk, "root")]) as vm:
        try:
            return measure_boot(vm, mine, theirs)
        except (AssertionError, OSError, subprocess.TimeoutExpired) as e:
            raise guest_work.child_failed(vm, LIMIT) from e


def measure_boot(vm, mine, theirs):
    first = vm.wait_message(child.FIRST_ENTRY, LIMIT)
    m = vm.wait_message(child.CONNECT, LIMIT)
    vm.send(child.CONNECT_OK, m.id, theirs.fileno())
    theirs.close()
    mine.settimeout(LIMIT)
    if not mine.recv(4096):
        raise Failed("the agent closed its connection", vm.text()[-2000:])
    hello = time.monotonic_ns()
    rss, private = rss_beyond_guest(vm.proc.pid, MEMORY), private_kib(vm.proc.pid, MEMORY)
    vm.send(child.STOP)
    vm.wait_exit()
    return (first.a - vm.spawned_ns) / 1e6, (hello - vm.spawned_ns) / 1e6, rss, private


def boot_part(table, kernel, initramfs, disk):
    ours = Side(NAMES[0], lambda: our_boot(kernel, initramfs, disk))
    theirs = Side(NAMES[1], lambda: qemu_peer.boot_to_hello(kernel, initramfs, CMDLINE, disk, memory=MEMORY >> 20))
    for side in ours, theirs:
        side.once(keep=False)  # warms what is left
    alternate(ours, theirs, RUNS)
    table.row("boot, fork to HELLO", ours.median(1), theirs.median(0), "ms", "QEMU microvm")
    if ours.results:
        entry = ours.median(0)
        print(f"{'  of it: fork to first vCPU entry':36} {entry:10.3f} ms")
        print(f"{'  of it: kernel and agent':36} {ours.median(1) - entry:10.3f} ms")
    table.row("memory beyond the guest's, RSS", ours.median(2), theirs.median(1), "KiB", "QEMU microvm")
    table.row("memory beyond the guest's, private", ours.median(3), theirs.median(2), "KiB", "QEMU microvm")
    table.notes(ours, theirs)


def work_part(table, kernel, initramfs, disk, what):
    work = guest_work.initramfs(initramfs, os.path.join(WORK, "work.cpio"))
    ours = Side(NAMES[0], lambda: guest_work.on_wslx(VMM, kernel, work, disk, what))
    theirs = Side(NAMES[1], lambda: guest_work.on_qemu(kernel, work, disk, what))
    alternate(ours, theirs, max(3, RUNS // 2))
    for name in guest_work.WORK[what]:
        table.row(name, ours.median(name), theirs.median(name), "MiB/s", "QEMU's virtio device", "higher")
    table.notes(ours, theirs)


def main():
    kernel = copy(os.path.join(KERNEL, "vmlinux"), "vmlinux")
    initramfs = copy(os.path.join(KERNEL, "initramfs.cpio"), "initramfs")
    disk = os.path.join(WORK, "bench.img")
    subprocess.run(["dd", "if=/dev/urandom", f"of={disk}", "bs=1M", "count=256"], check=True, stderr=subprocess.DEVNULL)
    warm(kernel, initramfs, VMM)
    table = Table()
    boot_part(table, kernel, initramfs, disk)
    for what in guest_work.WORK:
        work_part(table, kernel, initramfs, disk, what)
    return 1 if table.missing else 0


if __name__ == "__main__":
    sys.exit(main())
