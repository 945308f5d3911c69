"""Disk and network work in a bare guest: the same initramfs on our VMM and on QEMU microvm.

The initramfs is a WSLX one with a second archive behind it that replaces /init by a busybox script.  The script
prints "RESULT name MiB/s" lines on the serial port; times are the guest's.
"""

import fcntl
import os
import re
import socket
import struct
import subprocess
import sys
import threading

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests/guest"))
import child  # noqa: E402

TAP = "wslxbench0"
HOST, GUEST = "10.77.0.1", "10.77.0.2"
PORT = 7007
NET_MIB = 64
MEMORY = 512 << 20
CMDLINE = "console=ttyS0 panic=-1 reboot=t tsc=reliable quiet"

INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for m in $(cat /modules.load); do insmod $m 2>/dev/null; done
now() {{ read a b </proc/uptime; echo $a; }}
while [ ! -b /dev/vda ]; do usleep 10000; done
rate() {{ # name MiB start end
    echo "$2 $3 $4" | awk -v n=$1 '{{ print "RESULT", n, $1 / ($3 - $2) }}'
}}
s=$(now); dd if=/dev/vda of=/dev/null bs=1M iflag=direct 2>/dev/null; rate read 256 $s $(now)
s=$(now); dd if=/dev/zero of=/dev/vda bs=1M count=128 oflag=direct 2>/dev/null; rate write 128 $s $(now)
s=$(now); dd if=/dev/vda of=/dev/null bs=4k count=4096 iflag=direct 2>/dev/null; rate randread 16 $s $(now)
ip link set lo up
ip addr add {GUEST}/24 dev eth0; ip link set eth0 up
s=$(now); dd if=/dev/zero bs=64k count={NET_MIB * 16} 2>/dev/null | nc {HOST} {PORT}; rate send {NET_MIB} $s $(now)
s=$(now); nc {HOST} {PORT + 1} </dev/null | dd of=/dev/null bs=64k 2>/dev/null; rate receive {NET_MIB} $s $(now)
echo DONE
poweroff -f
"""


def cpio_entry(name, mode, data, ino):
    n = name.encode() + b"\0"
    out = ("070701" + "".join(f"{v:08x}" for v in (ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(n), 0))).encode() + n
    out += b"\0" * (-len(out) % 4)
    return out + data + b"\0" * (-len(data) % 4)


def initramfs(base, out, init=INIT):
    """base with busybox and another /init behind it."""
    busybox = next(p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p))
    with open(base, "rb") as f:
        data = f.read()
    data += b"\0" * (-len(data) % 512)
    data += cpio_entry("bin", 0o40755, b"", 900001)
    data += cpio_entry("bin/busybox", 0o100755, open(busybox, "rb").read(), 900002)
    data += cpio_entry("init", 0o100755, init.encode(), 900003)
    data += cpio_entry("TRAILER!!!", 0, b"", 0)
    with open(out, "wb") as f:
        f.write(data)
    return out


def open_tap(vnet_hdr):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = 0x0002 | 0x1000 | (0x4000 if vnet_hdr else 0)  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", TAP.encode(), flags))
    subprocess.run(["ip", "addr", "replace", f"{HOST}/24", "dev", TAP], check=True)
    subprocess.run(["ip", "link", "set", TAP, "up"], check=True)
    return fd


class Peer:
    """Takes NET_MIB on PORT, gives NET_MIB on PORT + 1."""

    def __enter__(self):
        self.socks = []
        for port, serve in ((PORT, self.sink), (PORT + 1, self.source)):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((HOST, port))
            s.listen(1)
            self.socks.append(s)
            threading.Thread(target=serve, args=(s,), daemon=True).start()
        return self

    def sink(self, s):
        try:
            c, _ = s.accept()
            left = NET_MIB << 20
            while left > 0 and (d := c.recv(1 << 20)):
                left -= len(d)
            c.close()
        except OSError:
            pass

    def source(self, s):
        try:
            c, _ = s.accept()
            for _ in range(NET_MIB):
                c.sendall(bytes(1 << 20))
            c.close()
        except OSError:
            pass

    def __exit__(self, *exc):
        for s in self.socks:
            s.close()


def results(text):
    out = {m[1]: float(m[2]) for m in re.finditer(r"RESULT (\w+) ([\d.]+)", text)}
    if "DONE" not in text:
        raise RuntimeError("the guest did not finish:\n" + text[-2000:])
    return out


def on_wslx(vmm, kernel, work, disk):
    fd = open_tap(True)
    with Peer():
        with child.Vmm(vmm, kernel, CMDLINE, initramfs=work, memory=MEMORY, disks=[child.Disk(disk, "root")], tap=fd) as vm:
            vm.wait_message(child.POWEROFF, timeout=300)
            vm.wait_exit()
            text = vm.text()
    return results(text)


def on_qemu(kernel, work, disk):
    fd = open_tap(True)
    with Peer():
        argv = ["qemu-system-x86_64", "-M", "microvm,accel=kvm,pcie=on,rtc=on,isa-serial=on,acpi=on", "-cpu", "host",
                "-smp", "1", "-m", str(MEMORY >> 20), "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", work, "-append", CMDLINE,
                "-object", "iothread,id=t0",
                "-drive", f"file={disk},format=raw,if=none,id=d0,cache=none,aio=io_uring,discard=unmap",
                "-device", "virtio-blk-pci,drive=d0,serial=root,iothread=t0",
                "-netdev", f"tap,id=n0,fd={fd}", "-device", "virtio-net-pci,netdev=n0",
                "-device", "virtio-rng-pci"]
        r = subprocess.run(argv, pass_fds=[fd], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           timeout=300, text=True, errors="replace")
    os.close(fd)
    return results(r.stdout)
