"""Starts `wslx-vmm --child=vmm` directly, the way the supervisor does, for tests of the VMM alone."""

import array
import json
import os
import select
import socket
import struct
import subprocess
import time

READY, FIRST_ENTRY, POWEROFF, RESET, FAILED, CONNECT, NET_DOWN, STATS_REPLY, PAUSED, HOST_FULL, WINDOW_MAPPED = \
    range(1, 12)
CONNECT_OK, CONNECT_REFUSED, NET_FD, PAUSE, RESUME, STATS, STOP, TEST_CONFINEMENT, WINDOW_MAP = range(64, 73)

HEADER = struct.Struct("<IIQQI")


class Message:
    def __init__(self, data):
        self.type, self.id, self.a, self.b, n = HEADER.unpack_from(data)
        self.text = data[HEADER.size:HEADER.size + n].decode()

    def __repr__(self):
        return f"Message(type={self.type}, id={self.id}, a={self.a}, b={self.b}, text={self.text!r})"


class Disk:
    def __init__(self, path, serial="disk", readonly=False, base=None, queues=0):
        self.path, self.serial, self.readonly, self.base, self.queues = path, serial, readonly, base, queues


class Vmm:
    """A running VMM child; a context manager that leaves no process behind."""

    def __init__(self, program, kernel, cmdline="console=ttyS0 panic=-1", initramfs=None, cpus=1, memory=256 << 20,
                 disks=(), vsock_path=None, shared=False, net=None, mac="52:54:00:12:34:56", no_io_uring=False,
                 test_hooks=True, tap=None, window=None):
        self.fds = [] if tap is None else [tap]
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.console, console_w = os.pipe()
        os.set_blocking(self.console, False)
        self.output = b""
        self.messages = []
        self.spawned_ns = 0
        try:
            params = {
                "link_fd": self._keep(theirs.detach()), "console_fd": self._keep(console_w),
                "vsock_fd": self._listen(vsock_path), "vsock_vhost_fd": -1, "guest_cid": 42,
                "disks": [self._disk(d) for d in disks], "cpus": cpus, "memory": memory, "shared_memory": shared,
                "kvm_fd": self._open("/dev/kvm", os.O_RDWR), "kernel_fd": self._open(kernel, os.O_RDONLY),
                "initramfs_fd": self._open(initramfs, os.O_RDONLY) if initramfs else -1, "cmdline": cmdline,
                "net_mode": 2 if tap is not None else 0 if net is None else 1,
                "net_fd": tap if tap is not None else -1 if net is None else self._keep(net.detach()),
                "mac": mac, "no_io_uring": no_io_uring, "test_hooks": test_hooks,
            }
            if window is not None:
                params.update(window=os.fstat(window).st_size, window_fd=self._keep(os.dup(window)))
            fd = self._keep(os.memfd_create("params", 0))
            os.write(fd, json.dumps(params).encode())
            os.lseek(fd, 0, os.SEEK_SET)
            self.spawned_ns = time.monotonic_ns()
            # A leak checker traces its own process, which the sandbox forbids.
            env = dict(os.environ, ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0")
            self.proc = subprocess.Popen([program, "--child=vmm", f"--params={fd}"], pass_fds=self.fds, env=env)
        finally:
            # Also where it cannot be started: a TAP device that stays open is busy for the next one.
            for f in self.fds:
                os.close(f)

    def _keep(self, fd):
        self.fds.append(fd)
        return fd

    def _open(self, path, flags):
        return self._keep(os.open(path, flags))

    def _listen(self, path):
        if path is None:
            return -1
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.bind(path)
        s.listen(16)
        return self._keep(s.detach())

    def _disk(self, d):
        flags = os.O_RDONLY if d.readonly else os.O_RDWR
        return {"fd": self._open(d.path, flags), "base_fd": self._open(d.base, os.O_RDONLY) if d.base else -1,
                "format": 1 if d.base else 0, "readonly": d.readonly, "no_sync": False, "serial": d.serial,
                "queues": d.queues, "vhost_fd": -1}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.link.close()
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        os.close(self.console)

    def send(self, kind, id=0, fd=None, a=0, b=0):
        data = [HEADER.pack(kind, id, a, b, 0)]
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
        self.link.sendmsg(data, anc)

    def _pump(self, timeout):
        """One wait for link or console.  False at the link's end."""
        ready, _, _ = select.select([self.link, self.console], [], [], timeout)
        if self.console in ready:
            try:
                data = os.read(self.console, 65536)
                self.output += data
                if not data and self.link not in ready:
                    time.sleep(0.01)
            except BlockingIOError:
                pass
        if self.link in ready:
            try:
                data = self.link.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return False
            self.messages.append(Message(data))
        return True

    def wait_message(self, kind, timeout=60):
        """The next message of this kind, which is taken; others stay."""
        end = time.monotonic() + timeout
        while True:
            for i, m in enumerate(self.messages):
                if m.type == kind:
                    return self.messages.pop(i)
            left = end - time.monotonic()
            if left <= 0 or not self._pump(left):
                for i, m in enumerate(self.messages):
                    if m.type == kind:
                        return self.messages.pop(i)
                raise AssertionError(f"no message {kind}; had {self.messages}; console:\n{self.text()[-3000:]}")

    def wait_output(self, text, timeout=60):
        end = time.monotonic() + timeout
        while text.encode() not in self.output:
            left = end - time.monotonic()
            if (left <= 0 or not self._pump(left)) and text.encode() not in self.output:
                raise AssertionError(f"no {text!r} on the console:\n{self.text()[-3000:]}\n{self.messages}")

    def request(self, kind, reply, id=1, timeout=30):
        self.send(kind, id)
        m = self.wait_message(reply, timeout)
        assert m.id == id, m
        return m

    def wait_exit(self, timeout=30):
        end = time.monotonic() + timeout
        while self.proc.poll() is None and time.monotonic() < end:
            self._pump(0.05)
        self._pump(0)
        return self.proc.wait(max(0.1, end - time.monotonic()))

    def text(self):
        return self.output.decode(errors="replace")
