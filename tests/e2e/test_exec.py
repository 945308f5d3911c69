"""Running commands: status, streams, terminals, signals, users, directories."""

import ctypes
import fcntl
import hashlib
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios

import pytest

from conftest import BUILD, ENGINE, WSLX, wait_for


def test_output_and_status(wslx):
    r = wslx("-d", "debian", "-e", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (r.stdout, r.stderr, r.returncode) == (b"out\n", b"err\n", 7)


def test_output_that_cannot_be_written(wslx):
    """Never a success, and said; a reader that has gone away is none."""
    with open("/dev/full", "wb") as full:
        for script in ("echo x", "trap '' PIPE; seq 100000; exit 0"):
            assert wslx("-d", "debian", "-e", "sh", "-c", script, stdout=full).stderr.splitlines()[-1:] == [
                b"wslx: cannot write standard output: No space left on device"]
            assert wslx("-d", "debian", "-e", "sh", "-c", script, stdout=full).returncode == 255
        assert wslx("-d", "debian", "-e", "sh", "-c", "echo x >&2", stderr=full).returncode == 255
        assert wslx("-d", "debian", "-e", "true", stdout=full, stderr=full).returncode == 0
        r = wslx("list", stdout=full)
        assert (r.returncode, r.err) == (255, "wslx: cannot write standard output: No space left on device\n")
    r = wslx("-d", "debian", "-e", "echo", "x", preexec_fn=lambda: os.close(1))
    assert (r.returncode, r.err) == (255, "wslx: cannot write standard output: Bad file descriptor\n")
    assert wslx("-d", "debian", "-e", "true", preexec_fn=lambda: os.close(1)).returncode == 0
    # Nobody wants what goes there.
    assert wslx("-d", "debian", "-e", "sh", "-c", "echo x >&2", preexec_fn=lambda: os.close(2)).returncode == 0
    p = wslx.popen("-d", "debian", "-e", "yes")
    p.stdout.readline()
    p.stdout.close()
    assert (p.wait(60), p.stderr.read()) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("status", [0, 1, 67, 87, 126, 127, 255])
def test_status_passes_through(wslx, status):
    assert wslx("-d", "debian", "-e", "sh", "-c", f"exit {status}").returncode == status


def test_death_by_signal_is_128_plus_n(wslx):
    assert wslx("-d", "debian", "-e", "sh", "-c", "kill -KILL $$").returncode == 137
    assert wslx("-d", "debian", "-e", "sh", "-c", "kill -TERM $$").returncode == 143


def test_command_not_found(wslx):
    r = wslx("-d", "debian", "-e", "/no/such/command")
    assert r.returncode == 127 and "no/such/command" in r.err
    assert wslx("-d", "debian", "-e", "/etc/passwd").returncode == 126


def test_exec_passes_argv_verbatim(wslx):
    args = ["a b", "", "$HOME", "*", "'q\"", "\\n", "\u00e9"]
    out = wslx("-d", "debian", "-e", "python3", "-c", "import sys; print(sys.argv[1:])", *args)
    assert eval(out.out) == args


def test_shell_mode_runs_in_the_users_shell(wslx):
    assert wslx.ok("-d", "debian", "--", "echo $0; echo a | tr a b").split() == ["/bin/bash", "b"]
    # Words that were separate stay separate.
    assert wslx.ok("-d", "debian", "echo", "a  b") == "a  b\n"


def test_stdin_is_byte_exact_and_half_closes(wslx):
    data = os.urandom(1 << 20) * 8
    r = wslx("-d", "debian", "-e", "sha256sum", input=data)
    assert r.out.split()[0] == hashlib.sha256(data).hexdigest()
    # The process sees the end of its input and can still answer.
    r = wslx("-d", "debian", "-e", "sh", "-c", "cat >/dev/null; echo done", input=b"x")
    assert r.out == "done\n"


def test_stdout_is_byte_exact(wslx):
    n = 32 << 20
    r = wslx("-d", "debian", "-e", "sh", "-c", f"head -c {n} /dev/zero | tr '\\0' 'x'")
    assert len(r.stdout) == n and r.stdout.count(b"x") == n


def test_echo_both_ways_at_once(wslx):
    data = os.urandom(1 << 20) * 4
    assert wslx("-d", "debian", "-e", "cat", input=data).stdout == data


def test_closed_stdout_gives_sigpipe(wslx):
    p = wslx.popen("-d", "debian", "-e", "sh", "-c", "yes; echo $? >&2")
    p.stdout.read(10)
    p.stdout.close()
    assert p.wait(60) is not None


def test_blocked_reader_does_not_stall_others(wslx):
    stuck = wslx.popen("-d", "debian", "-e", "yes")
    try:
        for _ in range(3):
            assert wslx.ok("-d", "debian", "-e", "echo", "free") == "free\n"
    finally:
        stuck.kill()
        stuck.wait()
        stuck.stdout.close()


@pytest.mark.parametrize("sig,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_are_forwarded(wslx, sig, status):
    p = wslx.popen("-d", "debian", "-e", "sh", "-c", "echo up; exec sleep 1000")
    assert p.stdout.readline() == b"up\n"
    p.send_signal(sig)
    assert p.wait(60) == status


def test_handled_signal(wslx):
    p = wslx.popen("-d", "debian", "-e", "sh", "-c",
                   "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.1; done")
    assert p.stdout.readline() == b"up\n"
    p.terminate()
    assert p.stdout.read() == b"got\n" and p.wait(60) == 5


def test_user_and_directory(wslx):
    assert wslx.ok("-d", "debian", "-e", "id", "-un").strip() == "root"
    assert wslx.ok("-d", "debian", "-u", "tester", "-e", "id", "-un").strip() == "tester"
    assert "sudo" in wslx.ok("-d", "debian", "-u", "tester", "-e", "id", "-Gn")
    assert wslx.ok("-d", "debian", "--cd", "/usr/lib", "-e", "pwd") == "/usr/lib\n"
    assert wslx.ok("-d", "debian", "-u", "tester", "--cd", "~", "-e", "pwd") == "/home/tester\n"
    assert wslx.ok("-d", "debian", "-u", "tester", "--cd", ".", "-e", "pwd") == "/home/tester\n"
    assert wslx.ok("-d", "debian", "-u", "tester", "--cd", "../../usr", "-e", "pwd") == "/usr\n"
    r = wslx("-d", "debian", "-u", "tester", "--cd", "nosuch", "-e", "pwd")
    assert (r.returncode, r.out) == (0, "/home/tester\n") and "cannot enter" in r.err
    wslx.fails("-d", "debian", "-u", "nobody-such", "-e", "true", needle="nobody-such")


def test_environment(wslx):
    env = dict(l.split("=", 1) for l in wslx.ok("-d", "debian", "-u", "tester", "-e", "env").splitlines())
    assert env["HOME"] == "/home/tester" and env["USER"] == "tester" and env["LOGNAME"] == "tester"
    assert env["SHELL"] == "/bin/bash" and env["WSL_DISTRO_NAME"] == "debian"
    assert env["PATH"].startswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
    out = wslx.ok("-d", "debian", "-e", "sh", "-c", "echo $SHARED", env={"SHARED": "yes", "WSLENV": "SHARED/u"})
    assert out == "yes\n"


class Terminal:
    """wslx on a pseudo-terminal."""

    def __init__(self, wslx, *argv, program=WSLX, rows=30, cols=100):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(program, [program, *argv], wslx.env)
        self.resize(rows, cols)
        self.seen = b""

    def resize(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def send(self, data):
        os.write(self.fd, data)

    def expect(self, what, timeout=120):
        while what not in self.seen:
            r, _, _ = select.select([self.fd], [], [], timeout)
            assert r, f"no {what!r} in {self.seen!r}"
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            assert data, f"ended without {what!r}: {self.seen!r}"
            self.seen += data
        self.seen = self.seen.split(what, 1)[1]

    def wait(self):
        while True:
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                break
            if not data:
                break
            self.seen += data
        _, st = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(st)


def test_login_shell_on_a_terminal(wslx):
    t = Terminal(wslx, "-d", "debian")
    t.expect(b"# ")
    t.send(b"echo $0-$((40+2)); tty\n")
    t.expect(b"-bash-42")
    t.expect(b"/dev/pts/")
    t.send(b"exit 9\n")
    assert t.wait() == 9


def test_terminal_size_and_resize(wslx):
    t = Terminal(wslx, "-d", "debian", "-e", "bash", "--norc", "-i", rows=33, cols=101)
    t.send(b"stty size; echo r''eady\n")
    t.expect(b"33 101")
    t.expect(b"ready")
    t.send(b"trap 'stty size' WINCH; echo tr''apped\n")
    t.expect(b"trapped")
    t.resize(44, 122)
    os.kill(t.pid, signal.SIGWINCH)
    t.send(b"\n")
    t.expect(b"44 122")
    t.send(b"exit\n")
    assert t.wait() == 0


def test_ctrl_c_on_a_terminal(wslx):
    t = Terminal(wslx, "-d", "debian", "-e", "sh", "-c", "trap 'echo caught; exit 3' INT; echo up; while :; do sleep 1; done")
    t.expect(b"up")
    t.send(b"\x03")
    t.expect(b"caught")
    assert t.wait() == 3


def test_in_the_background_of_a_shell(wslx):
    """It is not stopped for the terminal's sake, reads nothing of it, and takes it when it may."""
    wslx.sh("true")  # so that nothing is said of a start
    t = Terminal(wslx, "--norc", "--noediting", "-i", program="/bin/bash")
    mode = f"{sys.executable} -c 'import termios; print(\"mode\", termios.tcgetattr(0)[3] & termios.ICANON)'\n".encode()
    t.send(f"PS1=; {WSLX} -d debian -e sh -c 'rm -f /tmp/go; echo u''p; read x; echo \"got $x\"; "
           "while ! test -e /tmp/go; do sleep 0.1; done' &\n".encode())
    t.expect(b"\nup")
    # This is for bash.
    t.send(b"echo he''re; jobs\n")
    t.expect(b"\nhere")
    t.expect(b"Running")
    t.send(mode)
    t.expect(b"mode 2")
    # A shell gives a job that runs no signal; from now on it is typed into the guest's terminal.
    t.send(b"fg\n")
    t.expect(b"wslx")
    wait_for("the terminal is raw", lambda: not termios.tcgetattr(t.fd)[3] & termios.ICANON)
    t.send(b"word\r")
    t.expect(b"got word")
    os.kill(-os.tcgetpgrp(t.fd), signal.SIGSTOP)
    t.expect(b"Stopped")
    t.send(b"bg\n" + mode)
    t.expect(b"mode 2")
    wslx.sh("touch /tmp/go")
    t.send(b"wait; echo en''ded $?; jobs -l; exit 5\n")
    t.expect(b"ended 0")
    assert t.wait() == 5 and b"Stopped" not in t.seen


def test_terminal_is_restored(wslx):
    m, s = pty.openpty()
    before = termios.tcgetattr(s)
    p = subprocess.Popen([WSLX, "-d", "debian", "-e", "true"], stdin=s, stdout=s, stderr=s, env=wslx.env)
    assert p.wait(120) == 0
    assert termios.tcgetattr(s) == before
    os.close(m)
    os.close(s)


def test_sixty_clients_at_once(wslx):
    """Several hundred processes at once are a unit test of the agent; here each has a client of its own."""
    ps = [wslx.popen("-d", "debian", "-e", "sh", "-c", "echo up; cat", stdin=subprocess.PIPE) for _ in range(60)]
    for p in ps:
        assert p.stdout.readline() == b"up\n"
    for i, p in enumerate(ps):
        out, _ = p.communicate(b"%d\n" % i, timeout=120)
        assert out == b"%d\n" % i and p.returncode == 0


def test_background_child_survives_and_does_not_hold_the_client(wslx):
    wslx.ok("-d", "debian", "-e", "sh", "-c",
            "rm -f /tmp/go /tmp/survived; setsid sh -c 'while [ ! -e /tmp/go ]; do sleep 0.1; done; "
            "echo yes >/tmp/survived' </dev/null >/dev/null 2>&1 & ")
    wslx.sh("touch /tmp/go")
    wait_for("the background child finishes",
             lambda: wslx("-d", "debian", "-e", "cat", "/tmp/survived").out == "yes\n")


def test_killed_client_hangs_up_its_process(wslx):
    p = wslx.popen("-d", "debian", "-e", "sh", "-c", "echo $$; exec sleep 4321")
    pid = p.stdout.readline().decode().strip()
    p.kill()
    p.wait()
    wait_for("the guest process ends", lambda: wslx("-d", "debian", "-e", "kill", "-0", pid).returncode != 0)


def test_parent_that_ignores_sigchld(wslx, mini_tar):
    """Inherited, it would hide how mke2fs and the start of the supervisor ended."""
    def ignore():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    wslx.ok("import", "orphan", mini_tar, "--kernel", "cloud", "--size", "1G", preexec_fn=ignore)
    try:
        assert wslx("-d", "orphan", "-e", "sh", "-c", "exit 5", preexec_fn=ignore).returncode == 5
    finally:
        wslx.ok("unregister", "orphan", preexec_fn=ignore)


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("message", ctypes.c_char * 1024)]


class Distro(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("name", ctypes.c_char * 257), ("state", ctypes.c_int),
                ("is_default", ctypes.c_int), ("pid", ctypes.c_int64), ("engine", ctypes.c_char * 8),
                ("memory", ctypes.c_uint64), ("cpus", ctypes.c_uint32)]


class Import(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("name", ctypes.c_char_p), ("fd", ctypes.c_int),
                ("kernel", ctypes.c_char_p), ("disk_size", ctypes.c_uint64)]


class Exec(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("distro", ctypes.c_char_p), ("argv", ctypes.POINTER(ctypes.c_char_p)),
                ("env", ctypes.POINTER(ctypes.c_char_p)), ("cwd", ctypes.c_char_p), ("user", ctypes.c_char_p),
                ("flags", ctypes.c_uint), ("fds", ctypes.c_int * 3)]


PROGRESS = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64)


def library_program(tar):
    """Runs as a program of its own: what wslx.h offers, laid out as wslx.h says, from a thread."""
    lib = ctypes.CDLL(os.path.join(BUILD, "src/manager/libwslx.so"))
    err, w = Error(), ctypes.c_void_p()

    def ok(r):
        assert r == 0, (r, err.message)

    def run(*argv, out=-1):
        args = (ctypes.c_char_p * (len(argv) + 1))(*[a.encode() for a in argv], None)
        ex = Exec(ctypes.sizeof(Exec), b"lib", args, None, None, None, 0, (ctypes.c_int * 3)(-1, out, -1))
        status = ctypes.c_int(-1)
        return lib.libwslx_exec(w, ctypes.byref(ex), ctypes.byref(status), ctypes.byref(err)), status.value

    def distros():
        ret, n = ctypes.POINTER(ctypes.POINTER(Distro))(), ctypes.c_size_t()
        ok(lib.libwslx_list(w, ctypes.byref(ret), ctypes.byref(n), ctypes.byref(err)))
        assert not ret[n.value]
        found = {ret[i].contents.name: (ret[i].contents.size, ret[i].contents.state, ret[i].contents.engine)
                 for i in range(n.value)}
        lib.libwslx_list_free(ret)
        return found

    heard = set()
    hear = PROGRESS(lambda opaque, what, done, total: heard.add(what))
    ok(lib.libwslx_open(ctypes.byref(w), ctypes.byref(err)))
    lib.libwslx_set_progress(w, hear, None)
    imp = Import(ctypes.sizeof(Import), b"lib", os.open(tar, os.O_RDONLY), b"cloud", 1 << 30)
    ok(lib.libwslx_import_distro(w, ctypes.byref(imp), ctypes.byref(err)))
    assert distros()[b"lib"] == (ctypes.sizeof(Distro), 0, b"")
    ok(lib.libwslx_start(w, b"lib", ctypes.byref(err)))
    assert distros()[b"lib"] == (ctypes.sizeof(Distro), 2, ENGINE.encode())
    assert b"importing" in heard and len(heard) > 1, heard
    r, wr = os.pipe()
    assert run("sh", "-c", "echo out; exit 5", out=wr) == (0, 5)
    assert os.read(r, 100) == b"out\n"
    assert run("/no/such/program") == (-2, 127)
    # The time is up when the guest's program says so.
    lib.libwslx_set_cancel_fd(w, r)
    assert run("sh", "-c", "echo now; exec sleep 4321", out=wr) == (-125, 255)
    lib.libwslx_set_cancel_fd(w, -1)
    ok(lib.libwslx_terminate(w, b"lib", 0, ctypes.byref(err)))
    ok(lib.libwslx_unregister(w, b"lib", ctypes.byref(err)))
    lib.libwslx_close(w)
    print("done")


def test_library(wslx, mini_tar):
    both = os.path.join(wslx.home, "libexec")
    os.mkdir(both)
    for name, path in (("wslx-vmm", "src/vmm/wslx-vmm"), ("wslx-agent", "src/agent/wslx-agent")):
        os.symlink(os.path.join(BUILD, path), os.path.join(both, name))
    r = subprocess.run([sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import signal, threading; "
                        "signal.signal(signal.SIGPIPE, signal.SIG_IGN); import test_exec; "
                        "t = threading.Thread(target=test_exec.library_program, args=sys.argv[2:]); t.start(); t.join()",
                        os.path.dirname(__file__), mini_tar], env=dict(wslx.env, WSLX_LIBEXEC=both), timeout=300,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert r.stdout == "done\n", r.stderr
