"""Disk and network work in a bare guest: the same initramfs on our VMM and on QEMU microvm.

The initramfs is a WSLX one with a second archive behind it that replaces /init by a busybox script.  The script
prints "RESULT name MiB/s" lines on the serial port; times are the guest's.  What a boot measures is said on its command line.
"""

import contextlib
import fcntl
import os
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests/guest"))
sys.path.insert(0, os.path.join(TOP, "bench"))
import child  # noqa: E402
from tries import Failed  # noqa: E402

TAP = "wslxbench0"
HOST, GUEST = "10.77.0.1", "10.77.0.2"
PORT = 7007
NET_MIB = 32
MEMORY = 512 << 20
CMDLINE = "console=ttyS0 panic=-1 reboot=t tsc=reliable quiet"
WORK = {"disk": ("read", "write", "randread"), "net": ("send", "receive")}
# Seconds in which the next figure comes, or the end.  On a busy machine the slowest takes 20.
LIMIT = 60
ENDS = {child.FAILED: "the monitor failed", child.RESET: "the guest reset", child.POWEROFF: "the guest switched off too early"}

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
case $(cat /proc/cmdline) in
*bench=disk*)
s=$(now); dd if=/dev/vda of=/dev/null bs=1M iflag=direct 2>/dev/null; rate read 256 $s $(now)
s=$(now); dd if=/dev/zero of=/dev/vda bs=1M count=128 oflag=direct 2>/dev/null; rate write 128 $s $(now)
s=$(now); dd if=/dev/vda of=/dev/null bs=4k count=4096 iflag=direct 2>/dev/null; rate randread 16 $s $(now)
;;
*bench=net*)
ip link set lo up
ip addr add {GUEST}/24 dev eth0; ip link set eth0 up
s=$(now); dd if=/dev/zero bs=64k count={NET_MIB * 16} 2>/dev/null | nc {HOST} {PORT}; rate send {NET_MIB} $s $(now)
s=$(now); nc {HOST} {PORT + 1} </dev/null | dd of=/dev/null bs=64k 2>/dev/null; rate receive {NET_MIB} $s $(now)
;;
esac
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


@contextlib.contextmanager
def open_tap():
    """The TAP device's descriptor.  The device is gone when everybody has closed it, which is why nobody may leave one open."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        flags = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
        fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", TAP.encode(), flags))
        subprocess.run(["ip", "addr", "replace", f"{HOST}/24", "dev", TAP], check=True)
        subprocess.run(["ip", "link", "set", TAP, "up"], check=True)
        yield fd
    finally:
        os.close(fd)


class Peer:
    """Takes NET_MIB on PORT, gives NET_MIB on PORT + 1.  A context manager that leaves no socket and no thread behind."""

    def __init__(self, host=HOST, port=PORT):
        self.at = [((host, port), self.sink), ((host, port + 1), self.source)]

    def __enter__(self):
        self.lock, self.closing = threading.Lock(), False
        self.socks, self.threads = [], []
        try:
            for addr, serve in self.at:
                s = socket.create_server(addr, backlog=1)  # sets SO_REUSEADDR
                self.socks.append(s)
                self.threads.append(threading.Thread(target=self.serve, args=(s, serve), daemon=True))
                self.threads[-1].start()
        except OSError:
            self.__exit__()
            raise
        return self

    def serve(self, s, serve):
        try:
            c, _ = s.accept()
            with c:
                with self.lock:
                    if self.closing:
                        return
                    self.socks.append(c)
                serve(c)
        except OSError:
            pass

    def sink(self, c):
        left = NET_MIB << 20
        while left > 0 and (d := c.recv(1 << 20)):
            left -= len(d)

    def source(self, c):
        for _ in range(NET_MIB):
            c.sendall(bytes(1 << 20))

    def __exit__(self, *exc):
        # close() alone wakes nobody: a thread in accept() would keep the port.
        with self.lock:
            self.closing = True
        for s in self.socks:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
        for t in self.threads:
            t.join()
        for s in self.socks:
            s.close()


def results(text, what):
    out = {m[1]: float(m[2]) for m in re.finditer(r"RESULT (\w+) ([\d.]+)", text)}
    if "DONE" not in text or set(out) != set(WORK[what]):
        raise Failed("the guest ended early", text[-2000:])
    return out


def command_line(what):
    return f"{CMDLINE} bench={what}"


def on_wslx(vmm, kernel, work, disk, what):
    with open_tap() as fd, Peer():
        with child.Vmm(vmm, kernel, command_line(what), initramfs=work, memory=MEMORY, disks=[child.Disk(disk, "root")],
                       tap=os.dup(fd)) as vm:
            try:
                for name in WORK[what]:
                    vm.wait_output(f"RESULT {name} ", timeout=LIMIT)
                vm.wait_message(child.POWEROFF, timeout=LIMIT)
                vm.wait_exit()
            except (AssertionError, subprocess.TimeoutExpired) as e:
                raise child_failed(vm, LIMIT) from e
            text = vm.text()
    return results(text, what)


def child_failed(vm, limit):
    """What a VMM that did not do what it was waited for says about itself."""
    try:
        status = vm.proc.wait(1)
    except subprocess.TimeoutExpired:
        return Failed(f"no answer in {limit} s", vm.text()[-2000:])
    for m in vm.messages:
        if m.type in ENDS:
            said = m.text or ("a triple fault" if (m.type, m.a) == (child.RESET, 1) else "")
            return Failed(f"{ENDS[m.type]}{said and ': '}{said}", vm.text()[-2000:])
    return Failed(f"the monitor ended early with status {status}", vm.text()[-2000:])


def read_results(proc, limit=LIMIT):
    """All that a process prints.  It has so long for each line of ours: a kernel's complaints are no answer."""
    text, seen = b"", 0
    deadline = time.monotonic() + limit
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Failed(f"no answer in {limit} s", text.decode(errors="replace")[-2000:])
        if not select.select([proc.stdout], [], [], left)[0]:
            continue
        data = os.read(proc.stdout.fileno(), 65536)
        if not data:
            return text.decode(errors="replace")
        text += data
        if (n := len(re.findall(rb"RESULT \w+ [\d.]+\s|DONE", text))) > seen:
            seen, deadline = n, time.monotonic() + limit


@contextlib.contextmanager
def process(argv, **kw):
    """A process that is gone afterwards, whatever happened."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, **kw) as proc:
        try:
            yield proc
        finally:
            proc.kill()


def on_qemu(kernel, work, disk, what):
    with open_tap() as fd, Peer():
        argv = ["qemu-system-x86_64", "-M", "microvm,accel=kvm,pcie=on,rtc=on,isa-serial=on,acpi=on", "-cpu", "host",
                "-smp", "1", "-m", str(MEMORY >> 20), "-nodefaults", "-no-user-config", "-display", "none",
                "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-initrd", work, "-append", command_line(what),
                "-object", "iothread,id=t0",
                "-drive", f"file={disk},format=raw,if=none,id=d0,cache=none,aio=io_uring,discard=unmap",
                "-device", "virtio-blk-pci,drive=d0,serial=root,iothread=t0",
                "-netdev", f"tap,id=n0,fd={fd}", "-device", "virtio-net-pci,netdev=n0",
                "-device", "virtio-rng-pci"]
        with process(argv, pass_fds=[fd], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as proc:
            text = read_results(proc)
    return results(text, what)
