"""QEMU microvm as the peer: boots a given kernel and initramfs with the devices a WSLX machine has, and
times from its fork to the agent's HELLO, which arrives over vhost-vsock.  For use in the lab."""

import os
import select
import socket
import subprocess
import time

from guest_work import process
from own_memory import private_kib, rss_beyond_guest
from tries import Failed

CID = 77


def wait_readable(sock, proc, deadline, limit):
    """Until there is something on the socket.  A QEMU that has ended will not send anything: that is not waited for."""
    fd = os.pidfd_open(proc.pid)
    try:
        ready, _, _ = select.select([sock, fd], [], [], max(0, deadline - time.monotonic()))
    finally:
        os.close(fd)
    if sock in ready:
        return
    if ready:
        raise Failed(f"QEMU ended early with status {proc.wait()}", proc.stderr.read().decode(errors="replace")[-400:])
    raise Failed(f"no HELLO in {limit} s")


def boot_to_hello(kernel, initramfs, cmdline, disk, cpus=1, memory=512, limit=60):
    """Returns (ms from fork to the first bytes of HELLO, KiB resident and KiB private beyond the guest's memory)."""
    argv = ["qemu-system-x86_64", "-M", "microvm,accel=kvm,pcie=on,pit=off,pic=off,rtc=on,isa-serial=on,acpi=on",
            "-cpu", "host", "-smp", str(cpus), "-m", str(memory), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-serial", "null",
            "-kernel", kernel, "-initrd", initramfs, "-append", cmdline,
            "-drive", f"file={disk},format=raw,if=none,id=d0,cache=none,aio=io_uring,discard=unmap",
            "-device", "virtio-blk-pci,drive=d0,serial=root",
            "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0",
            "-device", "virtio-rng-pci",
            "-device", "virtio-serial-pci",
            "-device", f"vhost-vsock-pci,guest-cid={CID}"]
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as srv:
        srv.bind((socket.VMADDR_CID_ANY, 1024))
        srv.listen(4)
        start = time.monotonic()
        with process(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as proc:
            wait_readable(srv, proc, start + limit, limit)
            conn, _ = srv.accept()
            with conn:
                wait_readable(conn, proc, start + limit, limit)
                if not conn.recv(4096):
                    raise Failed("the agent closed its connection")
                ms = (time.monotonic() - start) * 1e3
                return ms, rss_beyond_guest(proc.pid, memory << 20), private_kib(proc.pid, memory << 20)
