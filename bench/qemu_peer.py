"""QEMU microvm as the peer: boots a given kernel and initramfs with the devices a WSLX machine has, and
times from its fork to the agent's HELLO, which arrives over vhost-vsock.  For use in the lab."""

import socket
import subprocess
import time

from own_memory import private_kib, rss_beyond_guest

CID = 77


def boot_to_hello(kernel, initramfs, cmdline, disk, cpus=1, memory=512, timeout=120):
    """Returns (ms from fork to the first bytes of HELLO, KiB resident and KiB private beyond the guest's memory)."""
    srv = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    srv.bind((socket.VMADDR_CID_ANY, 1024))
    srv.listen(4)
    srv.settimeout(timeout)
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
    start = time.monotonic()
    proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        conn, _ = srv.accept()
        conn.settimeout(timeout)
        assert conn.recv(4096)
        ms = (time.monotonic() - start) * 1e3
        return ms, rss_beyond_guest(proc.pid, memory << 20), private_kib(proc.pid, memory << 20)
    except socket.timeout:
        proc.kill()
        raise RuntimeError("QEMU: no HELLO: " + proc.stderr.read().decode(errors="replace")[-400:])
    finally:
        proc.kill()
        proc.wait()
        srv.close()
