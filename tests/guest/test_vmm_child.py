"""The VMM child alone, with a guest of a few instructions: correct on any KVM, software-backed ones included.

WSLX_VMM names the program and WSLX_GUESTS the folder of the guests (meson sets both); without them they are
looked for in the build folder WSLX_E2E_BUILD.
"""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import time

import pytest

import child
from child import Vmm

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("WSLX_E2E_BUILD") or os.path.join(TOP, "build")
VMM = os.environ.get("WSLX_VMM") or os.path.join(BUILD, "wslx-vmm")
GUEST = os.path.join(os.environ.get("WSLX_GUESTS") or os.path.join(BUILD, "tests/guest"), "behave.elf")


def kvm_missing():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        return str(e)
    return None


pytestmark = pytest.mark.skipif(kvm_missing() is not None, reason=f"no KVM: {kvm_missing()}")


def boot(what, **kw):
    return Vmm(VMM, GUEST, what, memory=kw.pop("memory", 64 << 20), **kw)


def test_output_and_poweroff():
    with boot("o") as vm:
        ready = vm.wait_message(child.READY)
        first = vm.wait_message(child.FIRST_ENTRY)
        assert vm.spawned_ns < first.a < time.monotonic_ns()
        assert ready.a > 0
        vm.wait_message(child.POWEROFF)
        assert vm.wait_exit() == 0
        assert vm.text() == "ok\n"


def test_shared_memory_and_high_memory():
    with boot("o", shared=True, memory=5 << 30) as vm:
        vm.wait_message(child.POWEROFF)
        assert vm.text() == "ok\n"


@pytest.mark.parametrize("how", ["r", "k", "c"])
def test_reset(how):
    with boot(how) as vm:
        assert vm.wait_message(child.RESET).a == 0
        assert vm.wait_exit() == 0


def test_triple_fault():
    with boot("t") as vm:
        assert vm.wait_message(child.RESET).a == 1
        assert vm.wait_exit() == 0


def test_second_vcpu():
    with boot("2", cpus=2) as vm:
        vm.wait_message(child.POWEROFF)
        vm.wait_exit()
        assert vm.text() == "ap\n"


def test_absent_devices():
    with boot("x") as vm:
        vm.wait_message(child.POWEROFF)
        assert vm.text() == "ok\n"


def test_pci_slots(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with boot("p", disks=[child.Disk(str(image), "root")]) as vm:
        vm.wait_message(child.POWEROFF)
        slots = dict(line.split() for line in vm.text().splitlines())
        assert slots["01"] == "10431af4"
        assert slots["02"] == "10441af4"
        assert slots["03"] == "10531af4"
        assert "04" not in slots
        assert slots["10"] == "10421af4"


def test_stop_while_halted():
    with boot("h", cpus=2) as vm:
        vm.wait_output("halt")
        vm.send(child.STOP)
        assert vm.wait_exit() == 0


def test_pause_resume_stats():
    with boot("f") as vm:
        vm.wait_output("###")
        assert vm.request(child.PAUSE, child.PAUSED, 5).b == 0
        assert vm.request(child.PAUSE, child.PAUSED, 6).b == 0
        first = stats(vm)["vcpu0.exits_pio"]
        assert first > 0
        assert stats(vm)["vcpu0.exits_pio"] == first
        assert vm.request(child.RESUME, child.PAUSED, 7).b == 0
        while stats(vm)["vcpu0.exits_pio"] == first:
            pass
        assert vm.request(child.RESUME, child.PAUSED, 8).b == 0
        vm.send(child.STOP)
        assert vm.wait_exit() == 0


def stats(vm):
    text = vm.request(child.STATS, child.STATS_REPLY, 9).text
    return {k: int(v) for k, v in (line.split() for line in text.splitlines())}


def test_console_nobody_reads():
    """A guest that floods the serial port, and a supervisor that does not read: the VMM still answers."""
    with boot("f") as vm:
        vm.wait_message(child.FIRST_ENTRY)
        real, vm.console = vm.console, os.open("/dev/null", os.O_RDONLY)
        end = time.monotonic() + 20
        while stats(vm)["serial.dropped"] == 0 and time.monotonic() < end:
            pass
        assert stats(vm)["serial.dropped"] > 0
        vm.send(child.STOP)
        assert vm.wait_exit() == 0
        os.close(vm.console)
        vm.console = real


def test_confinement():
    with boot("h") as vm:
        vm.wait_output("halt")
        m = vm.request(child.TEST_CONFINEMENT, child.PAUSED)
        assert (m.a, m.b) == (0, 0)
        status = open(f"/proc/{vm.proc.pid}/status").read()
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
        assert "CapEff:\t0000000000000000" in status
        for task in os.listdir(f"/proc/{vm.proc.pid}/task"):
            assert "Seccomp:\t2" in open(f"/proc/{vm.proc.pid}/task/{task}/status").read()


def test_confinement_hook_is_off():
    with boot("h", test_hooks=False) as vm:
        vm.wait_output("halt")
        assert vm.request(child.TEST_CONFINEMENT, child.PAUSED).b != 0


def test_supervisor_gone():
    with boot("f", cpus=2) as vm:
        vm.wait_message(child.FIRST_ENTRY)
        vm.link.shutdown(socket.SHUT_RDWR)
        assert vm.proc.wait(20) == 0


def test_malformed_message_ends_it():
    with boot("h") as vm:
        vm.wait_output("halt")
        vm.link.send(b"nonsense")
        assert vm.proc.wait(20) == 0


def test_paused_and_stopped():
    with boot("h", cpus=2) as vm:
        vm.wait_output("halt")
        vm.request(child.PAUSE, child.PAUSED)
        vm.send(child.STOP)
        assert vm.wait_exit() == 0


def test_vsock_without_driver(tmp_path):
    """A host program that connects before any driver is there is not answered and does no harm."""
    path = str(tmp_path / "vsock.sock")
    with boot("h", vsock_path=path) as vm:
        vm.wait_output("halt")
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            s.sendall(b"CONNECT 1024\n")
        vm.send(child.STOP)
        assert vm.wait_exit() == 0


@pytest.mark.parametrize("kw, text", [
    ({"kernel": "/etc/hostname"}, "kernel"),
    ({"memory": (1 << 20) + 4096}, "2 MiB"),
    ({"memory": 2 << 20}, ""),
    ({"cpus": 0}, "CPU"),
    ({"cmdline": "x" * 5000}, ""),
])
def test_bad_parameters(kw, text):
    kernel = kw.pop("kernel", GUEST)
    cmdline = kw.pop("cmdline", "o")
    with Vmm(VMM, kernel, cmdline, memory=kw.pop("memory", 64 << 20), **kw) as vm:
        m = vm.wait_message(child.FAILED)
        assert text in m.text and "\n" not in m.text and len(m.text) > 10
        assert vm.wait_exit() == 1


def test_bad_disk(tmp_path):
    image = tmp_path / "empty.img"
    image.write_bytes(b"")
    with boot("o", disks=[child.Disk(str(image), "root")]) as vm:
        assert "disk 0" in vm.wait_message(child.FAILED).text
        assert vm.wait_exit() == 1


def sealed(size):
    fd = os.memfd_create("window", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


def test_window():
    window, arena = sealed(64 << 20), sealed(4 << 20)
    with boot("h", window=window) as vm:
        vm.wait_message(child.FIRST_ENTRY)
        wanted = [(1, 2, 2, arena, 0), (29, 2, 1, arena, 0), (1, 30, 0, window, 0), (0, 1, 0, window, errno.EINVAL),
                  (30, 2, 1, arena, errno.EINVAL), (1, 3, 1, arena, errno.EINVAL), (1, 1, 9, arena, errno.EINVAL)]
        for i, (first, n, kind, fd, want) in enumerate(wanted):
            vm.send(child.WINDOW_MAP, i, fd, first | n << 32, kind)
            m = vm.wait_message(child.WINDOW_MAPPED)
            assert (m.id, m.a) == (i, want), (m, wanted[i])
        assert vm.request(child.TEST_CONFINEMENT, child.PAUSED).a == 0
    with boot("p", window=window) as vm:
        vm.wait_message(child.POWEROFF)
        assert "105b1af4" in vm.text()  # a virtio device 27
    os.close(arena)
    os.close(window)


def test_window_that_is_none():
    fd = os.memfd_create("window", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 64 << 20)
    with boot("o", window=fd) as vm:
        assert "window" in vm.wait_message(child.FAILED).text
        assert vm.wait_exit() == 1
    os.close(fd)


def test_killed():
    with boot("f") as vm:
        vm.wait_message(child.FIRST_ENTRY)
        vm.proc.send_signal(signal.SIGKILL)
        assert vm.proc.wait(10) == -signal.SIGKILL


def test_no_parameters():
    r = subprocess.run([VMM, "--child=vmm"], capture_output=True, text=True, timeout=20)
    assert r.returncode != 0 and r.stderr.strip()
