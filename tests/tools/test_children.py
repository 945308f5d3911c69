"""What `make check` and the lab start does not outlive them, however they end.  The emulated host is a stand-in that sleeps."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WAIT = 30
ENDS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL]


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def world(tmp_path):
    """Stand-ins for QEMU and for what the lab asks of apt; an environment to start things in.  Nothing is left at the end."""
    for d in "bin", "cache/wslx/lab/linux-image-x/boot", "cache/wslx/lab/linux-image-x/lib/modules/x", "tmp":
        (tmp_path / d).mkdir(parents=True)
    script(tmp_path / "bin/qemu-system-x86_64", f"#!/bin/sh\necho $$ >>{tmp_path}/pids\necho booted\nexec sleep 600\n")
    script(tmp_path / "bin/apt-cache", "#!/bin/sh\necho '  Depends: linux-image-x'\n")
    for f in "done", "boot/vmlinuz-x":
        (tmp_path / "cache/wslx/lab/linux-image-x" / f).touch()
    (tmp_path / "scratch").touch()
    (tmp_path / "pids").touch()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    env.update(PATH=f"{tmp_path}/bin:{env['PATH']}", XDG_CACHE_HOME=f"{tmp_path}/cache", TMPDIR=f"{tmp_path}/tmp",
               PYTHONDONTWRITEBYTECODE="1")
    yield World(tmp_path, env)
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class World:
    def __init__(self, path, env):
        self.path, self.env = path, env

    def start(self, argv, cwd=TOP):
        """With the signals as a terminal's programs have them, whoever runs this test."""
        def defaults():
            for s in ENDS[:-1]:
                signal.signal(s, signal.SIG_DFL)
        return subprocess.Popen(argv, cwd=cwd, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, preexec_fn=defaults, start_new_session=True)

    def lab(self, *args):
        return self.start([f"{TOP}/lab/lab.py", "--scratch", f"{self.path}/scratch", *args, "true"])

    def pids(self):
        return [int(p) for p in (self.path / "pids").read_text().split()]


def until(what, true):
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("sig", ENDS)
def test_the_emulated_host_ends_with_the_lab(world, sig):
    lab = world.lab()
    until("no QEMU", world.pids)
    lab.send_signal(sig)
    out, _ = lab.communicate(timeout=WAIT)
    until("QEMU is left", lambda: gone(world.pids()[0]))
    if sig == signal.SIGKILL:
        assert lab.returncode == -sig
    else:
        assert lab.returncode == 128 + sig
        assert out == f"lab: ended by {sig.name}\n" or out == f"booted\nlab: ended by {sig.name}\n"
        assert os.listdir(world.path / "tmp") == []


def test_two_labs_do_not_share_a_console(world):
    console = str(world.path / "console.log")
    first = world.lab("--console", console)
    until("no QEMU", world.pids)
    second = world.lab("--console", console)
    out, _ = second.communicate(timeout=WAIT)
    assert (second.returncode, out) == (125, f"lab: another lab writes to {console}\n")
    first.terminate()
    first.communicate(timeout=WAIT)
    third = world.lab("--console", console)
    until("the console is not free again", lambda: len(world.pids()) == 2)
    third.terminate()
    third.communicate(timeout=WAIT)


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import children
c = children.Children()
c.catch_signals()
c.run(["sh", "-c", sys.argv[2]])
"""


def run_child(world, text):
    return world.start([sys.executable, "-c", CHILD, f"{TOP}/tools", text.replace("PIDS", f"{world.path}/pids")])


@pytest.mark.parametrize("sig", ENDS[:-1])
def test_a_signal_ends_the_whole_group(world, sig):
    p = run_child(world, "sleep 600 & echo $! >>PIDS; echo $$ >>PIDS; wait")
    until("no child", lambda: len(world.pids()) == 2)
    p.send_signal(sig)
    p.communicate(timeout=WAIT)
    assert p.returncode == 128 + sig
    until("the group is left", lambda: all(gone(pid) for pid in world.pids()))


def test_a_killed_starter_tells_the_leader(world):
    p = run_child(world, "trap 'echo told >>PIDS.told; exit' TERM; echo $$ >>PIDS; while :; do sleep 0.1; done")
    until("no child", world.pids)
    p.kill()
    p.communicate(timeout=WAIT)
    until("the child is left", lambda: gone(world.pids()[0]))
    assert (world.path / "pids.told").read_text() == "told\n"


def test_what_a_finished_child_leaves_in_its_group_is_ended(world):
    p = run_child(world, "sleep 600 & echo $! >>PIDS")
    p.communicate(timeout=WAIT)
    assert p.returncode == 0
    until("something is left", lambda: gone(world.pids()[0]))


def test_ignored_signals_stay_ignored(world):
    p = world.start(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-c", CHILD, f"{TOP}/tools",
                     f"echo $$ >>{world.path}/pids; sleep 0.5"])
    until("no child", world.pids)
    p.send_signal(signal.SIGHUP)
    p.communicate(timeout=WAIT)
    assert p.returncode == 0


@pytest.fixture
def tree(world):
    """A tree in which every stage of `make check` fails at once, but for the lab's."""
    top = world.path / "tree"
    for d in "tools", "lab":
        shutil.copytree(f"{TOP}/{d}", top / d, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(f"{TOP}/Makefile", top)
    script(top / "tools/packages.sh", "#!/bin/sh\n")
    (top / "tests/e2e").mkdir(parents=True)
    (top / "tests/e2e/test_x.py").touch()
    (top / "tests/skips.txt").touch()
    for tool in "meson", "ninja", "clang-format", "clang-tidy", "git":
        script(world.path / "bin" / tool, "#!/bin/sh\nexit 1\n")
    return top


def lock_is_free(top):
    with open(top / "build-check-logs/lock") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_killed_make_check(world, tree, sig):
    make = world.start(["make", "check"], cwd=tree)
    until("no QEMU", world.pids)
    make.send_signal(sig)
    make.communicate(timeout=WAIT)
    until("QEMU is left", lambda: gone(world.pids()[0]))
    until("something holds the lock", lambda: lock_is_free(tree))
    assert os.listdir(world.path / "tmp") == []
    assert len(world.pids()) == 1  # no second boot


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_killed_check(world, tree, sig):
    check = world.start([sys.executable, "tools/check.py", "e2e-kvm", "format"], cwd=tree)
    until("no QEMU", world.pids)
    check.send_signal(sig)
    out, _ = check.communicate(timeout=WAIT)
    until("QEMU is left", lambda: gone(world.pids()[0]))
    until("something holds the lock", lambda: lock_is_free(tree))
    if sig != signal.SIGKILL:
        assert check.returncode == 128 + sig
        assert out.endswith(f"make check: ended by {sig.name}\n")


def test_two_checks_do_not_share_a_tree(world, tree):
    first = world.start([sys.executable, "tools/check.py", "e2e-kvm"], cwd=tree)
    until("no QEMU", world.pids)
    second = world.start([sys.executable, "tools/check.py", "format"], cwd=tree)
    out, _ = second.communicate(timeout=WAIT)
    assert second.returncode == 1
    assert out == f"make check: another one works in this tree: process {first.pid}, or what it started and is now ending\n"
    first.terminate()
    first.communicate(timeout=WAIT)
