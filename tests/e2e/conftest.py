"""Fixtures of the end-to-end suite.

The suite is the same for both engines; WSLX_E2E_ENGINE (tcg or kvm) chooses.
One WSLX_HOME serves a whole run; tests that break machines make their own
distro.  Nothing here sleeps for a fixed time: waits watch for the event.
"""

import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENGINE = os.environ.get("WSLX_E2E_ENGINE", "tcg")
BUILD = os.environ.get("WSLX_E2E_BUILD", os.path.join(TOP, "build"))
WSLX = os.path.join(BUILD, "wslx")
PREPARED = os.path.join(BUILD, "e2e")
TIMEOUT = 300


def pytest_configure(config):
    config.addinivalue_line("markers", "engine(name): about this engine alone; not part of the other's suite")
    # As Ctrl-C: the machines are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    for item in items:
        item.add_marker(pytest.mark.timeout(600))
    other = [i for i in items if (m := i.get_closest_marker("engine")) and m.args[0] != ENGINE]
    if other:
        config.hook.pytest_deselected(items=other)
        items[:] = [i for i in items if i not in other]


def machine_logs(home):
    """The last lines of every machine's console, supervisor log and events, for the report of a failed test."""
    out = []
    for root, _, files in sorted(os.walk(os.path.join(home, "state"))):
        for name in sorted(set(files) & {"console.log", "vmm.log", "events"}):
            path = os.path.join(root, name)
            with open(path, "rb") as f:
                f.seek(max(0, os.path.getsize(path) - 4000))
                text = f.read().decode(errors="replace")
            out.append(f"--- {os.path.relpath(path, home)} ({time.time() - os.path.getmtime(path):.0f} s old)\n{text}\n")
    return "".join(out)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed and "wslx" in item.funcargs:
        report.sections.append(("Captured stdout machines", machine_logs(item.funcargs["wslx"].home)))


class Wslx:
    """The command line, with one home directory."""

    def __init__(self, home):
        self.home = home
        self.env = dict(os.environ, WSLX_HOME=home, WSLX_ENGINE=ENGINE, LANG="C.UTF-8")
        self.env.pop("WSLX_LOG", None)

    def popen(self, *argv, env=None, **kw):
        kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen([WSLX, *argv], env=dict(self.env, **(env or {})), **kw)

    def __call__(self, *argv, input=None, env=None, timeout=TIMEOUT, **kw):
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        if input is None:
            kw.setdefault("stdin", subprocess.DEVNULL)
        elif isinstance(input, str):
            input = input.encode()
        r = subprocess.run([WSLX, *argv], input=input, env=dict(self.env, **(env or {})), timeout=timeout, **kw)
        if isinstance(r.stdout, bytes):
            r.out = r.stdout.decode(errors="replace")
        if isinstance(r.stderr, bytes):
            r.err = r.stderr.decode(errors="replace")
        return r

    def ok(self, *argv, **kw):
        r = self(*argv, **kw)
        assert r.returncode == 0, f"wslx {argv}: status {r.returncode}\n{r.out}\n{r.err}"
        return r.out

    def sh(self, script, distro="debian", **kw):
        return self.ok("-d", distro, "-e", "/bin/sh", "-c", script, **kw)

    def fails(self, *argv, needle=None, status=255, **kw):
        """One clear line on stderr, nothing on stdout, the given status."""
        r = self(*argv, **kw)
        assert r.returncode == status, f"wslx {argv}: status {r.returncode}\n{r.out}\n{r.err}"
        assert r.err.strip(), f"wslx {argv}: no message"
        if needle:
            assert needle.lower() in r.err.lower(), r.err
        return r.err

    def distros(self):
        return {d["name"]: d for d in json.loads(self.ok("list", "--json"))["distros"]}

    def state(self, name="debian"):
        return self.distros()[name]["state"]

    def vmm_pid(self, name="debian"):
        return self.distros()[name].get("pid")


def free_port():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
    s.close()
    return port


def wait_for(what, cond, timeout=120):
    """Polls a condition that has no event to wait for (another process's state)."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if cond():
            return
        time.sleep(0.05)
    pytest.fail(f"never happened: {what}")


def children_of(pid):
    """All live descendants."""
    out, todo = [], [pid]
    table = {}
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            table.setdefault(int(fields[1]), []).append(int(p))
    while todo:
        for c in table.get(todo.pop(), []):
            out.append(c)
            todo.append(c)
    return out


def alive(pid):
    """Any of its threads: the first one may be gone while others still have its files."""
    for stat in glob.glob(f"/proc/{pid}/task/*/stat"):
        try:
            with open(stat) as f:
                if f.read().rsplit(")", 1)[1].split()[0] not in "ZX":
                    return True
        except OSError:
            pass
    return False


def comm(pid):
    """Its program's name; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


@pytest.fixture(scope="session")
def prepared():
    if not os.environ.get("WSLX_IN_LAB"):
        subprocess.run([os.path.join(TOP, "tests/e2e/prepare.sh"), BUILD], check=True)
    return PREPARED


@pytest.fixture(scope="session")
def wslx(prepared):
    base = "/scratch" if os.environ.get("WSLX_IN_LAB") else None
    home = tempfile.mkdtemp(prefix="wslx-e2e-", dir=base)
    os.makedirs(os.path.join(home, "data"))
    shutil.copytree(os.path.join(prepared, "home/data/kernels"), os.path.join(home, "data/kernels"), symlinks=True)
    w = Wslx(home)
    w.ok("import", "debian", os.path.join(prepared, "debian.tar"), "--kernel", "cloud", "--size", "16G",
         timeout=900)
    yield w
    w("shutdown", "--force")
    leftovers = [d for d in w.distros().values() if d["state"] == "Running"]
    for d in leftovers:
        os.kill(d["pid"], signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


def make_mini_tar(d):
    """A tiny root file system: busybox and an /etc, for tests that only need something to boot."""
    root = d / "root"
    for sub in ("bin", "etc", "root", "tmp", "proc", "sys", "dev", "run", "usr/bin", "var", "home/user"):
        (root / sub).mkdir(parents=True)
    busybox = next(p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p))
    shutil.copy(busybox, root / "bin/busybox")
    for applet in ("sh", "ls", "cat", "echo", "sleep", "true", "false", "id", "uname", "mount", "wc", "head", "dd",
                   "sha256sum", "kill", "ps", "env", "pwd", "stty", "reboot", "poweroff", "df", "touch", "rm", "sync",
                   "ip", "nslookup", "wget", "nc", "mkdir", "hostname", "seq", "stat", "tr", "yes", "test", "trap"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    (root / "etc/os-release").write_text("PRETTY_NAME=mini\n")
    out = d / "mini.tar"
    subprocess.run(["tar", "-C", str(root), "--owner=0", "--group=0", "--numeric-owner", "-cf", str(out), "."],
                   check=True)
    return str(out)


@pytest.fixture(scope="session")
def mini_tar(tmp_path_factory):
    return make_mini_tar(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def mini(wslx, mini_tar):
    """A fresh distro of its own for a test that kills or breaks its machine."""
    name = f"mini{os.urandom(4).hex()}"
    wslx.ok("import", name, mini_tar, "--kernel", "cloud", "--size", "1G")
    yield name
    wslx("terminate", name)
    wslx("unregister", name)
