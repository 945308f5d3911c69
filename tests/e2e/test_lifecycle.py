"""Starting, stopping, killing at any moment, rebooting, panicking."""

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import ENGINE, TIMEOUT, Wslx, alive, children_of, comm, wait_for
from test_exec import Terminal


def test_list_formats(wslx):
    wslx.sh("true")
    assert "debian" in wslx.ok("list", "-q").split()
    v = wslx.ok("list", "-v").splitlines()
    assert v[0].split()[:2] == ["NAME", "STATE"]
    assert any("debian" in l and "Running" in l for l in v[1:])
    assert wslx.ok("--list", "-v").splitlines()[0] == v[0]
    assert json.loads(wslx.ok("list", "--json"))["distros"]
    assert "(Default)" in wslx.ok("-l")


def test_terminate_and_start_again(wslx, mini):
    wslx.sh("true", distro=mini)
    assert wslx.state(mini) == "Running"
    wslx.ok("--terminate", mini)
    assert wslx.state(mini) == "Stopped"
    wslx.sh("true", distro=mini)


GOODBYE = ("import os, signal, sys, time\n"
           "log = open(sys.argv[1], 'w', buffering=1)\n"
           "def end(*_):\n"
           "    log.write('term\\n'); time.sleep(1); log.write('clean\\n'); os._exit(7)\n"
           "signal.signal(signal.SIGTERM, end)\n"
           "log.write('start\\n')\n"
           "while True: signal.pause()\n")


KILLED = "what has not ended by now is killed"


def test_terminate_lets_programs_finish(wslx):
    """SIGTERM, and nothing else before its time: in the foreground, as a daemon, and in a shell on a terminal.  Idle
    shells keep nobody waiting."""
    wslx.sh("rm -f /var/tmp/bye*; cat >/var/tmp/bye.py", input=GOODBYE)
    fg = wslx.popen("-d", "debian", "-e", "python3", "/var/tmp/bye.py", "/var/tmp/bye.fg")
    wslx.sh("setsid python3 /var/tmp/bye.py /var/tmp/bye.daemon >/dev/null 2>&1 </dev/null &")
    job = Terminal(wslx, "-d", "debian")
    job.expect(b"# ")
    job.send(b"python3 /var/tmp/bye.py /var/tmp/bye.job\n")
    plain = wslx.popen("-d", "debian", "-e", "sleep", "1000")
    logs = [f"/var/tmp/bye.{x}" for x in ("fg", "daemon", "job")]
    wait_for("all run", lambda: wslx.sh(f"cat {' '.join(logs)} 2>/dev/null | wc -l; pgrep -fxc 'sleep 1000' || true").split() ==
             ["3", "1"])
    wslx.ok("terminate", "debian")
    assert fg.communicate()[1] == b"" and fg.returncode == 7
    assert plain.communicate()[1].decode() == "wslx: warning: the command was ended: the machine is being stopped\n"
    assert plain.returncode == 143
    job.wait()
    for log in logs:
        assert wslx.sh(f"cat {log}") == "start\nterm\nclean\n", log
    idle = Terminal(wslx, "-d", "debian")
    idle.expect(b"# ")
    idle.send(b"HISTFILE=/var/tmp/bye.history; echo a-$((40+2)); bash -i\n")
    idle.expect(b"a-42")
    idle.expect(b"# ")
    wslx.ok("terminate", "debian")
    idle.wait()
    assert KILLED not in wslx.ok("logs", "debian")
    # As if the terminal had gone, so a shell keeps what it would keep then.
    assert "bash -i" in wslx.sh("cat /var/tmp/bye.history; rm -f /var/tmp/bye*")
    p = wslx.popen("-d", "debian", "-e", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done", stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"up\n"
    wslx.ok("terminate", "debian")
    assert p.wait(60) == 137
    assert KILLED in wslx.ok("logs", "debian")


def test_two_starts_at_once_make_one_machine(wslx, mini):
    procs = [wslx.popen("-d", mini, "-e", "cat", "/proc/sys/kernel/random/boot_id") for _ in range(4)]
    ids = {p.communicate(timeout=200)[0] for p in procs}
    assert len(ids) == 1 and b"" not in ids


def test_unregister_stops_and_deletes(wslx, mini_tar):
    wslx.ok("import", "doomed", mini_tar, "--kernel", "cloud", "--size", "1G")
    wslx.sh("true", distro="doomed")
    pid = wslx.vmm_pid("doomed")
    wslx.ok("unregister", "doomed")
    assert "doomed" not in wslx.distros()
    wait_for("the machine is gone", lambda: not alive(pid))
    assert not os.path.exists(os.path.join(wslx.home, "data/distros/doomed"))


def test_named_like_a_verb(wslx, mini_tar, tmp_path):
    """A verb is the first word only, and a name never is."""
    wslx.ok("import", "list", mini_tar, "--kernel", "cloud", "--size", "1G")
    try:
        assert "list" in wslx.ok("list", "-q").split()
        assert wslx.ok("-d", "list", "-e", "echo", "up") == "up\n"
        assert "engine" in wslx.ok("config", "list")
        assert "Linux version" in wslx.ok("logs", "list")
        wslx.ok("terminate", "list")
        wslx.ok("export", "list", str(tmp_path / "list.tar"))
        assert wslx.ok("run", "list", "--net", "none", "--", "echo list") == "list\n"
    finally:
        wslx.ok("unregister", "list")
    assert "list" not in wslx.ok("list", "-q").split()


def test_logs_show_the_console(wslx, mini):
    wslx.sh("true", distro=mini)
    assert "Linux version" in wslx.ok("logs", mini)


def test_poweroff_in_the_guest(wslx, mini):
    wslx.sh("true", distro=mini)
    pid = wslx.vmm_pid(mini)
    wslx("-d", mini, "-e", "poweroff", "-f")
    wait_for("the machine ends", lambda: not alive(pid))
    assert wslx.state(mini) == "Stopped"


def test_reboot_in_place(wslx, mini):
    one = wslx.sh("cat /proc/sys/kernel/random/boot_id", distro=mini)
    pid = wslx.vmm_pid(mini)
    wslx("-d", mini, "-e", "reboot", "-f")
    wait_for("a new boot", lambda: wslx("-d", mini, "-e", "cat", "/proc/sys/kernel/random/boot_id").out not in ("", one))
    assert wslx.vmm_pid(mini) == pid


def test_kernel_panic_is_reported(wslx, mini):
    wslx.sh("true", distro=mini)
    pid = wslx.vmm_pid(mini)
    r = wslx("-d", mini, "-e", "sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
    assert r.returncode == 255
    assert "Kernel panic - not syncing" in r.err and f"wslx logs {mini}" in r.err
    assert len(r.err.splitlines()) == 1, r.err
    wait_for("the machine ends", lambda: not alive(pid))
    assert "panic" in wslx.ok("logs", mini).lower()
    assert wslx.sh("echo again", distro=mini) == "again\n"


def test_panic_of_a_throwaway_machine(wslx, mini):
    r = wslx("run", mini, "--", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
    assert r.returncode == 255
    assert "Kernel panic - not syncing" in r.err and "wslx logs" not in r.err


def test_first_command_after_a_crash(wslx, mini):
    """It may meet the dying machine, and gets a new one."""
    rng = random.Random(1)
    for i in range(24 if ENGINE == "tcg" else 8):  # a start takes many times as long in the lab
        wslx.sh("true", distro=mini)
        pid = wslx.vmm_pid(mini)
        how = i % 4
        if how == 0:
            os.kill(pid, signal.SIGKILL)
        elif how == 1:
            kids = [k for k in children_of(pid) if comm(k) and "passt" not in comm(k)]
            os.kill(rng.choice(kids), signal.SIGKILL)
        elif how == 2:
            wslx("-d", mini, "-e", "poweroff", "-f")
        else:
            wslx("-d", mini, "-e", "sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
        r = wslx("-d", mini, "-e", "echo", "again")
        assert (r.returncode, r.out) == (0, "again\n"), f"round {i}: status {r.returncode}\n{r.out}\n{r.err}"


def nothing_left(wslx, name, pids):
    for p in pids:
        wait_for(f"process {p} is gone", lambda: not alive(p))
    disk = os.path.join(wslx.home, "data/distros", name, "disk.img")
    r = subprocess.run(["/sbin/e2fsck", "-fp", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert r.returncode in (0, 1), r.stdout


def test_kill_supervisor(wslx, mini):
    wslx.sh("echo a >/root/a; sync", distro=mini)
    pid = wslx.vmm_pid(mini)
    kids = children_of(pid)
    assert kids
    os.kill(pid, signal.SIGKILL)
    nothing_left(wslx, mini, [pid, *kids])
    assert wslx.state(mini) == "Stopped"
    log = os.path.join(wslx.home, "state/machines", mini, "vmm.log")
    with open(log) as f:
        killed = f.read()
    assert wslx.sh("cat /root/a", distro=mini) == "a\n"
    with open(log + ".1") as f:
        assert f.read() == killed


def test_kill_each_child(wslx, mini):
    wslx.sh("true", distro=mini)
    pid = wslx.vmm_pid(mini)
    kids = [k for k in children_of(pid) if comm(k) and "passt" not in comm(k)]
    os.kill(kids[0], signal.SIGKILL)
    wait_for("the machine ends", lambda: not alive(pid))
    nothing_left(wslx, mini, kids)
    assert wslx.sh("echo ok", distro=mini) == "ok\n"


def test_kill_client_while_starting(wslx, mini):
    rng = random.Random(1)
    for _ in range(3):
        p = wslx.popen("-d", mini, "-e", "true")
        threading.Event().wait(rng.random())
        p.kill()
        p.wait()
        assert wslx.sh("echo ok", distro=mini) == "ok\n"
        wslx.ok("terminate", mini)


def supervisors(name):
    """Processes that supervise, or are about to supervise, this machine."""
    found = []
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            cmd = open(f"/proc/{p}/cmdline").read()
        except OSError:
            continue  # gone meanwhile
        if "wslx-vmm" in cmd and name in cmd and "--child" not in cmd:
            found.append(int(p))
    return found


def test_kill_supervisor_while_starting(wslx, mini):
    for _ in range(2):
        p = wslx.popen("-d", mini, "-e", "true")
        wait_for("a supervisor", lambda: supervisors(mini) or p.poll() is not None)
        for pid in supervisors(mini):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        p.wait(120)
        assert wslx.sh("echo ok", distro=mini) == "ok\n"
        wslx.ok("terminate", mini)


def test_kill_run_leaves_no_image(wslx, mini):
    p = wslx.popen("run", mini, "--", "echo up; exec sleep 1000")
    assert p.stdout.readline() == b"up\n"
    p.kill()
    p.wait()
    wslx.ok("list")
    wait_for("the throw-away machine is swept", lambda: wslx("list").returncode == 0 and not [
        m for m in os.listdir(os.path.join(wslx.home, "run")) if m.startswith("run-")])


def test_disk_is_opened_by_one_machine(wslx, mini):
    disk = os.path.join(wslx.home, "data/distros", mini, "disk.img")
    with open(disk, "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        wslx.fails("-d", mini, "-e", "true", needle="disk")
    assert wslx.sh("echo ok", distro=mini) == "ok\n"


def control(wslx, name, method, **parameters):
    """A call on the machine's control socket, by nothing but its documented wire format."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(os.path.join(wslx.home, "run", name, "control.sock"))
        s.sendall(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")
        data = b""
        while not data.endswith(b"\0"):
            more = s.recv(65536)
            assert more, f"{method}: no answer"
            data += more
    return json.loads(data[:-1])


def test_confinement(wslx, mini):
    """A hook inside the confined child tries open, stat, execve, connect and an io_uring open: every one must fail."""
    wslx.ok("-d", mini, "-e", "true", env={"WSLX_TEST_HOOKS": "1"})
    assert control(wslx, mini, "io.wslx.Machine.TestConfinement")["parameters"]["succeeded"] == []


def test_control_socket(wslx, mini):
    wslx.sh("true", distro=mini)
    info = control(wslx, mini, "io.wslx.Machine.Info")["parameters"]
    assert info["name"] == mini and info["engine"] == ENGINE and info["state"] == "running"
    assert control(wslx, mini, "io.wslx.Machine.Pause") == {"parameters": {}}
    assert control(wslx, mini, "io.wslx.Machine.Info")["parameters"]["state"] == "paused"
    assert control(wslx, mini, "io.wslx.Machine.Resume") == {"parameters": {}}
    assert wslx.sh("echo on", distro=mini) == "on\n"
    stats = control(wslx, mini, "io.wslx.Machine.Stats")["parameters"]["stats"]
    assert any("blk" in k for k in stats)
    assert control(wslx, mini, "io.wslx.Machine.NoSuch")["error"] == "org.varlink.service.MethodNotFound"
    assert "error" in control(wslx, mini, "io.wslx.Machine.TestConfinement")


class Session:
    """A client of the machine's agent with one process, by nothing but the documented protocol."""

    HEADER = struct.Struct("<IHHII")
    HELLO, OK, ERROR, EXEC, STARTED, DATA, EXIT = 1, 2, 3, 0x20, 0x21, 0x22, 0x28

    def __init__(self, path, *argv):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(path)
        self.sock.sendall(b"CONNECT 1024\n")
        self.send(self.HELLO, 0, 0, struct.pack("<IHHQ", 0x47415857, 1, 1, 0))
        tlvs = [(0x501, a.encode()) for a in argv] + [(0x507, bytes((1, 1, 0))), (0x50a, struct.pack("<I", 65536))]
        self.send(self.EXEC, 1, 1, b"".join(struct.pack("<II", t, len(v)) + v for t, v in tlvs))

    def send(self, kind, channel, number, body, flags=0):
        self.sock.sendall(self.HEADER.pack(len(body), kind, flags, channel, number) + body)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            assert more, "the agent hung up"
            data += more
        return data

    def wait_started(self):
        while (c := self.exactly(1)) != b"\n":
            assert c
        while (kind := self.receive()[0]) != self.STARTED:
            assert kind == self.HELLO

    def receive(self):
        size, kind, _, channel, number = self.HEADER.unpack(self.exactly(16))
        return kind, number, self.exactly(size)

    def finish(self, data):
        """Sends data and the end of input; returns the output and the status."""
        self.send(self.DATA, 1, 0, data, flags=2)
        out = b""
        while True:
            kind, number, body = self.receive()
            if kind == self.DATA and number == 1:
                out += body
            elif kind == self.EXIT:
                self.sock.close()
                return out, struct.unpack("<III", body)[2]


def test_many_clients_at_once(wslx, mini):
    """Each client is a connection, a process and its pipes for the agent, which the kernel gives 1024 descriptors."""
    wslx.sh("true", distro=mini)
    path = os.path.join(wslx.home, "run", mini, "vsock.sock")
    clients = []
    for _ in range(12):
        batch = [Session(path, "cat") for _ in range(50)]
        for c in batch:
            c.wait_started()
        clients += batch
    assert wslx.sh("ulimit -n; echo on", distro=mini) == "1024\non\n"
    for i, c in enumerate(clients):
        assert c.finish(b"%d" % i) == (b"%d" % i, 0)


def test_terminate_while_paused(wslx, mini):
    wslx.sh("true", distro=mini)
    p = wslx.popen("-d", mini, "-e", "sh", "-c", "trap '' HUP; trap 'echo ended >/root/end; exit' TERM; echo up; "
                   "while :; do sleep 1; done")
    assert p.stdout.readline() == b"up\n"
    assert control(wslx, mini, "io.wslx.Machine.Pause") == {"parameters": {}}
    wslx.ok("terminate", mini)
    p.wait(60)
    assert wslx.state(mini) == "Stopped"
    assert wslx.sh("cat /root/end", distro=mini) == "ended\n"


def test_doctor(wslx):
    r = wslx("doctor")
    assert r.returncode == 0
    for word in ("engine", "kvm", "tcg", "passt", "kernel"):
        assert word in r.out.lower()


def test_shutdown_stops_all(wslx, mini):
    wslx.sh("true", distro=mini)
    wslx.sh("true")
    wslx.ok("--shutdown")
    assert all(d["state"] == "Stopped" for d in wslx.distros().values())


def fork_bomb(most):
    """A static program that forks until it cannot, at most so often; its children stay."""
    code = (b"\xbb" + struct.pack("<I", most) +  # mov ebx, most
            b"\xb8\x39\x00\x00\x00\x0f\x05"    # next: mov eax, SYS_fork; syscall
            b"\x85\xc0\x78\x13\x74\x06"         # test eax, eax; js end; jz child
            b"\xff\xcb\x75\xef\xeb\x0b"         # dec ebx; jnz next; jmp end (more than it may have)
            b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"  # child: mov eax, SYS_pause; syscall; jmp child
            b"\x00\x00"
            b"\x89\xdf\x85\xff\x0f\x94\xc0\x0f\xb6\xf8"  # end: edi = (ebx == 0)
            b"\xb8\xe7\x00\x00\x00\x0f\x05")   # exit_group
    base, start = 0x400000, 120
    return struct.pack("<4sBBBB8xHHIQQQIHHHHHHIIQQQQQQ", b"\x7fELF", 2, 1, 1, 0, 2, 62, 1, base + start, 64, 0, 0, 64, 56,
                       1, 64, 0, 0, 1, 5, 0, base, base, start + len(code), start + len(code), 4096) + code


def test_fork_bomb(wslx, mini):
    """A distribution full of processes: the agent still answers, other commands get a plain error, terminate works."""
    wslx.ok("config", mini, "memory=512M", "cpus=1")
    threads_max = int(wslx.sh("cat /proc/sys/kernel/threads-max", distro=mini))
    limit = int(wslx.sh("cat /sys/fs/cgroup/pids.max", distro=mini))
    assert threads_max / 2 < limit <= threads_max - 128
    wslx.ok("-d", mini, "-e", "/bin/sh", "-c", "cat >/bin/bomb; busybox chmod 755 /bin/bomb; "
            "exec /bin/bomb </dev/null >/dev/null 2>&1",
            input=fork_bomb(60000), timeout=500)
    assert json.loads(wslx.ok("stats", mini, "--json"))
    for _ in range(3):
        r = wslx("-d", mini, "-e", "/bin/true")
        assert r.returncode == 0 or (r.returncode == 255 and len(r.err.splitlines()) == 1), r.err
    wslx.ok("terminate", mini)
    assert wslx.state(mini) == "Stopped"
    wslx.sh("true", distro=mini)


APT_CACHE = """#!/bin/sh
echo "Package: linux-image-cloud-amd64"
echo "Depends: {pkg} (= 1)"
"""
APT_GET = """#!/bin/sh
[ "$4" = download ] && cp {deb} .
"""


@pytest.fixture
def own_home(prepared, tmp_path, mini_tar):
    """A home of its own, with the distribution mini and one kernel, and an apt that has that kernel's package."""
    deb = next(f for f in os.listdir(f"{prepared}/cloud") if f.endswith(".deb"))
    for name, text in (("apt-cache", APT_CACHE), ("apt-get", APT_GET)):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(text.format(pkg=deb.split("_")[0], deb=f"{prepared}/cloud/{deb}"))
        tool.chmod(0o755)
    w = Wslx(str(tmp_path / "home"))
    w.env["PATH"] = f"{tmp_path}/bin:{w.env['PATH']}"
    shutil.copytree(f"{prepared}/home/data/kernels/cloud", tmp_path / "home/data/kernels/debian-cloud")
    w.ok("import", "mini", mini_tar, "--size", "1G")
    yield w
    w("shutdown", "--force")


def test_last_kernel_removed_and_fetched_again(own_home):
    w = own_home
    w.fails("kernel", "remove", "debian-cloud", needle="is that of 'mini'")
    assert w.ok("kernel", "list", "-q") == "debian-cloud\n"
    r = w("kernel", "remove", "debian-cloud", "--force")
    assert r.returncode == 0 and "'mini' cannot be started" in r.err and len(r.err.splitlines()) == 1
    err = w.fails("-d", "mini", "-e", "true", needle="no kernel is installed; `wslx install debian` fetches one")
    assert len(err.splitlines()) == 1
    w.fails("install", "--name", "mini", "--memory", "512M", needle="there is already a distribution 'mini'")
    assert "'mini' was there without a kernel" in w.ok("install", "--name", "mini")
    w.sh("true", distro="mini")
    w.fails("install", "--name", "mini", needle="there is already a distribution 'mini'")
