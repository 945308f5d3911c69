"""Mistakes: one clear line, a non-zero status, nothing left behind."""

import contextlib
import os
import pathlib
import re
import struct
import subprocess
import tempfile

import pytest

from conftest import WSLX


def test_unknown_things(wslx):
    wslx.fails("-d", "nosuch", "-e", "true", needle="nosuch")
    wslx.fails("--no-such-option", needle="no-such-option")
    wslx.fails("terminate", "nosuch", needle="nosuch")
    wslx.fails("unregister", "nosuch", needle="nosuch")
    wslx.fails("logs", "nosuch", needle="nosuch")
    wslx.fails("run", "nosuch", needle="nosuch")
    wslx.fails("list", "--wat", needle="wat")
    wslx.fails("install", "nosuchdistro", needle="nosuchdistro")


def test_help_is_a_success(wslx):
    assert "usage" in wslx.ok("--help").lower()
    for verb in ("install", "import", "run", "list", "terminate", "shutdown", "unregister", "kernel", "logs", "doctor"):
        assert verb in wslx.ok(verb, "--help")


def test_name_taken_and_bad_names(wslx, mini_tar):
    wslx.fails("import", "debian", mini_tar, needle="debian")
    wslx.fails("import", "DEBIAN", mini_tar, needle="debian")
    for bad in ("a/b", "..", "", "x" * 300, "a b", "-x"):
        assert wslx("import", "--", bad, mini_tar).returncode == 255
    assert sorted(wslx.distros()) == sorted(d for d in wslx.distros() if "/" not in d)


def registered_nothing(wslx, name):
    assert name not in wslx.distros()
    assert not [f for f in os.listdir(os.path.join(wslx.home, "data/distros")) if name in f]


def test_not_a_tar(wslx, tmp_path):
    bad = tmp_path / "noise"
    bad.write_bytes(os.urandom(1 << 16))
    wslx.fails("import", "noise", str(bad), needle="noise")
    registered_nothing(wslx, "noise")
    empty = tmp_path / "empty.tar"
    subprocess.run(["tar", "-cf", str(empty), "-T", "/dev/null"], check=True)
    wslx.fails("import", "noise", str(empty))
    wslx.fails("import", "noise", str(tmp_path / "absent.tar"), needle="absent.tar")
    registered_nothing(wslx, "noise")


def test_whole_disk(wslx, mini_tar, tmp_path):
    """It is called what it is, and what the line says to do about it works."""
    root, part, disk = tmp_path / "root", tmp_path / "part", tmp_path / "disk.img"
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "-xf", mini_tar], check=True)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", str(root), str(part), "64M"], check=True)
    start, sectors = 2048, (64 << 20) // 512
    entry = b"\x80\0\0\0\x83\0\0\0" + struct.pack("<II", start, sectors)
    disk.write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa" + bytes((start - 1) * 512) + part.read_bytes())
    err = wslx.fails("import", "disk", str(disk), needle="a whole disk with a partition table")
    assert len(err.splitlines()) == 1 and "disk.img" in err and "empty" not in err
    registered_nothing(wslx, "disk")
    recipe, = (r for r in err.split("`") if r.startswith("dd "))
    words = {"FILE": str(disk), "START": str(start), "SECTORS": str(sectors), "NAME": "disk", "wslx": WSLX}
    recipe = re.sub(r"\b(FILE|START|SECTORS|NAME|wslx)\b", lambda m: words[m[0]], recipe)
    subprocess.run(["sh", "-c", recipe], env=wslx.env, check=True, timeout=300)
    try:
        assert "disk" in wslx.distros()
    finally:
        wslx.ok("unregister", "disk")


def test_truncated_archive(wslx, mini_tar, tmp_path):
    cut = tmp_path / "cut.tar.gz"
    data = subprocess.run(["gzip", "-c", mini_tar], stdout=subprocess.PIPE, check=True).stdout
    cut.write_bytes(data[: len(data) // 2])
    wslx.fails("import", "cut", str(cut))
    registered_nothing(wslx, "cut")


def test_not_a_kernel(wslx, tmp_path):
    bad = tmp_path / "notakernel"
    bad.write_bytes(b"MZ" + os.urandom(1 << 16))
    wslx.fails("kernel", "add", str(bad), needle="notakernel")
    err = wslx.fails("kernel", "add", "/bin/ls", needle="not a kernel")
    assert len(err.splitlines()) == 1
    wslx.fails("kernel", "list", "--force", needle="kernel remove")
    assert "ls" not in wslx.ok("kernel", "list", "-q").split()
    wslx.fails("import", "k", "/dev/null", "--kernel", "nosuchkernel", needle="nosuchkernel")


@contextlib.contextmanager
def small_disk(tmp_path, size):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    mnt = tmp_path / f"small-{size}"
    mnt.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mnt)], check=True)
    try:
        yield mnt
    finally:
        subprocess.run(["umount", str(mnt)], check=True)


def test_full_disk_while_importing(wslx, prepared, tmp_path):
    """What is full is named."""
    image = tmp_path / "image"
    with small_disk(tmp_path, "96m") as mnt:
        env = {"WSLX_HOME": str(mnt)}
        r = wslx("import", "big", os.path.join(prepared, "debian.tar"), env=env)
        assert r.returncode == 255 and ("space" in r.err or "full" in r.err) and f"{mnt}/data/distros" in r.err, r.err
        assert "big" not in wslx.ok("list", "-q", env=env)
        assert not [f for f in os.listdir(mnt / "data/distros") if "big" in f]
        with open(image, "wb") as f:
            f.truncate(256 << 20)
        subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", str(image)], check=True)
        with open(image, "r+b") as f:
            for at in range(128 << 20, 240 << 20, 1 << 20):
                f.seek(at)
                f.write(os.urandom(1 << 20))
        wslx.fails("import", "big", str(image), needle=f"left to use on the host's disk in {mnt}/data/distros", env=env)
    with small_disk(tmp_path, "4m") as mnt:
        deb, = (f"{prepared}/cloud/{f}" for f in os.listdir(f"{prepared}/cloud") if f.endswith(".deb"))
        wslx.fails("kernel", "add", deb, needle=f"no space left on the host's disk in {mnt}/data/kernels",
                   env={"WSLX_HOME": str(mnt)})
    with small_disk(tmp_path, "1m") as mnt:
        wslx.ok("import", "unstarted", image_of_noise(tmp_path), "--size", "1G")
        try:
            wslx.fails("export", "unstarted", f"{mnt}/x.tar", needle=f"the archive {mnt}/x.tar needs more than")
            assert os.listdir(mnt) == []
        finally:
            wslx.ok("unregister", "unstarted")


def image_of_noise(tmp_path):
    """A root file system of some MiB."""
    etc = tmp_path / "noise/etc"
    etc.mkdir(parents=True)
    (etc / "noise").write_bytes(os.urandom(4 << 20))
    subprocess.run(["tar", "-C", str(etc.parent), "-cf", str(tmp_path / "noise.tar"), "etc"], check=True)
    return str(tmp_path / "noise.tar")


def only_path(tmp_path, *names):
    """A PATH with just these programs."""
    # Not below pytest's own folder: QEMU is started as nobody, who could not reach it there.
    d = pathlib.Path(tempfile.mkdtemp(prefix="wslx-path-"))
    d.chmod(0o755)
    for n in names:
        for p in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"):
            if os.path.exists(f"{p}/{n}"):
                os.symlink(f"{p}/{n}", d / n)
                break
    return {"PATH": str(d)}


def test_passt_missing(wslx, mini, tmp_path):
    env = only_path(tmp_path, "qemu-system-x86_64", "mke2fs")
    wslx.fails("-d", mini, "-e", "true", needle="passt", env=env)
    assert wslx("run", mini, "--net", "none", "--", "true", env=env).returncode == 0


@pytest.mark.engine("tcg")
def test_qemu_missing(wslx, mini, tmp_path):
    err = wslx.fails("-d", mini, "-e", "true", needle="qemu", env=only_path(tmp_path, "passt", "mke2fs"))
    assert len(err.splitlines()) == 1, err


# Becomes the command with another /dev, made of the real one's nodes, and what the caller wants to be /dev/kvm.
OTHER_DEV = """set -e
d=$1; kvm=$2; shift 2
mount -t tmpfs -o mode=755 dev "$d"
for f in null zero full random urandom tty; do : >"$d/$f"; mount --bind "/dev/$f" "$d/$f"; done
ln -s /proc/self/fd "$d/fd"
eval "$kvm"
mount --rbind "$d" /dev
exec "$@"
"""

NO_KVM = ":"
# Any device will do: what it is called counts.
SOME_KVM = ": >$d/kvm; mount --bind /dev/null $d/kvm"
# No device can be opened on a file system that is mounted so.
CLOSED_KVM = SOME_KVM + "; mount -o remount,bind,nodev $d/kvm"
GROUPS_KVM = "mkdir $d/x; mount -t tmpfs -o dev x $d/x; mknod -m 660 $d/x/kvm c 1 3; chgrp 0 $d/x/kvm; : >$d/kvm; " \
             "mount --bind $d/x/kvm $d/kvm; mount -o remount,bind,nodev $d/kvm"


class OtherDev:
    """wslx on a host with another /dev/kvm, in a mount namespace."""

    def __init__(self, wslx, kvm):
        self.wslx, self.kvm = wslx, kvm

    def __call__(self, *argv):
        env = dict(self.wslx.env, WSLX_ENGINE="auto")
        with tempfile.TemporaryDirectory(prefix="wslx-dev-") as d:
            return subprocess.run(["unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", OTHER_DEV, "sh", d,
                                   self.kvm, WSLX, *argv], env=env, stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=300)

    def refuses_kvm(self, distro, *needles):
        r = self("run", distro, "--engine", "kvm", "--", "true")
        assert r.returncode == 255 and not r.stdout
        assert len(r.stderr.splitlines()) == 1, r.stderr
        for needle in needles:
            assert needle in r.stderr, r.stderr

    def doctor_says(self, *needles):
        r = self("doctor")
        line, = [s for s in r.stdout.splitlines() if s.split()[1:3] == ["engine", "kvm"]]
        for needle in needles:
            assert needle in line, line
        assert r.returncode == 0 and line.startswith("warn")
        assert "picks tcg" in r.stdout


@pytest.fixture
def no_probe(wslx):
    """What is known of the real device's speed is not that of another."""
    path = pathlib.Path(wslx.home, "run/kvm-probe")
    saved = path.read_text() if path.exists() else None
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)
    if saved:
        path.write_text(saved)


def test_kvm_missing(wslx, mini, no_probe):
    dev = OtherDev(wslx, NO_KVM)
    dev.refuses_kvm(mini, "/dev/kvm is missing", "modprobe kvm-intel or kvm-amd")
    dev.doctor_says("/dev/kvm is missing", "modprobe kvm-intel or kvm-amd")


def test_kvm_not_permitted(wslx, mini, no_probe):
    dev = OtherDev(wslx, CLOSED_KVM)
    dev.refuses_kvm(mini, "/dev/kvm may not be opened", "container")
    dev.doctor_says("/dev/kvm may not be opened", "container")
    if os.geteuid() == 0:  # who alone can make a device
        dev = OtherDev(wslx, GROUPS_KVM)
        dev.refuses_kvm(mini, "/dev/kvm may not be opened", "sudo adduser $USER root")
        dev.doctor_says("/dev/kvm may not be opened", "sudo adduser $USER root")


def test_kvm_broken(wslx, mini, no_probe):
    dev = OtherDev(wslx, SOME_KVM)
    dev.refuses_kvm(mini, "/dev/kvm opens, but a machine does not work")
    dev.doctor_says("/dev/kvm opens, but a machine does not work")


def slow_kvm(path):
    """An earlier probe of the device found that it counts too slowly."""
    st = os.stat("/dev/null")
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    path.write_text(f"{boot} {st.st_rdev} {st.st_ino} 0 27000000\n")


def test_kvm_software_backed(wslx, mini, no_probe):
    dev = OtherDev(wslx, SOME_KVM)
    slow_kvm(no_probe)
    dev.refuses_kvm(mini, "software-backed", "--engine tcg")
    r = wslx("doctor")  # the real one, if it is such
    if "software-backed" in r.out:
        wslx.fails("run", mini, "--engine", "kvm", "--", "true", needle="software-backed")


@pytest.mark.engine("tcg")
@pytest.mark.parametrize("kvm", ["missing", "not permitted", "slow"])
def test_auto_falls_back_to_tcg(wslx, mini, no_probe, kvm):
    dev = OtherDev(wslx, {"missing": NO_KVM, "not permitted": CLOSED_KVM, "slow": SOME_KVM}[kvm])
    if kvm == "slow":
        slow_kvm(no_probe)
    r = dev("run", mini, "--engine", "auto", "--net", "none", "--", "echo up")
    assert (r.returncode, r.stdout) == (0, "up\n"), r.stderr


def test_unknown_engine_and_values(wslx, mini):
    wslx.fails("run", mini, "--engine", "warp", needle="warp")
    wslx.fails("run", mini, "--cpus", "0")
    wslx.fails("run", mini, "--cpus", "many")
    wslx.fails("run", mini, "--memory", "12Q")
    wslx.fails("run", mini, "--memory", "1K")
    wslx.fails("run", mini, "--publish", "99999:1")
    wslx.fails("run", mini, "--publish", "x")
    wslx.fails("run", mini, "--net", "carrier-pigeon")
    wslx.fails("run", mini, "--net", "tap:")
    wslx.fails("run", mini, "--net", "tap:name-that-is-too-long", needle="name-that-is-too-long")
    wslx.fails("run", mini, "--net", "tap:wslxnosuch", "--", "true", needle="no TAP interface wslxnosuch; make it")
    assert not os.path.exists("/sys/class/net/wslxnosuch")


def test_kernel_without_drivers(wslx, prepared, tmp_path):
    """A real kernel whose modules folder holds nothing."""
    deb = [f for f in os.listdir(f"{prepared}/cloud") if f.endswith(".deb")][0]
    subprocess.run(["dpkg-deb", "-x", f"{prepared}/cloud/{deb}", str(tmp_path / "x")], check=True)
    boot = tmp_path / "x/boot"
    vmlinuz = [f for f in os.listdir(boot) if f.startswith("vmlinuz")][0]
    bare = tmp_path / "bare"
    bare.mkdir()
    wslx.fails("kernel", "add", str(boot / vmlinuz), "--name", "bare", "--modules", str(bare))
    assert "bare" not in wslx.ok("kernel", "list")


def test_modular_kernel_without_modules(wslx, mini, prepared, tmp_path):
    """It is warned of, and the failed start says what is missing."""
    deb = [f for f in os.listdir(f"{prepared}/cloud") if f.endswith(".deb")][0]
    subprocess.run(["dpkg-deb", "-x", f"{prepared}/cloud/{deb}", str(tmp_path / "x")], check=True)
    vmlinuz = next((tmp_path / "x/boot").glob("vmlinuz*"))
    r = wslx("kernel", "add", str(vmlinuz), "--name", "bare")
    try:
        assert (r.returncode, r.out) == (0, "bare\n") and len(r.err.splitlines()) == 1, r.err
        assert "without modules" in r.err and "--modules DIR" in r.err
        r = wslx("run", mini, "--kernel", "bare", "--net", "none", "--", "true")
        assert r.returncode == 255
        assert "the kernel lacks vsock" in r.err and "wslx kernel add FILE --modules DIR" in r.err, r.err
    finally:
        wslx("kernel", "remove", "bare")


def test_agent_that_never_answers(wslx, mini):
    """init= has no meaning for an initramfs, rdinit= does: a machine whose agent cannot start."""
    wslx.ok("terminate", mini)
    env = {"WSLX_CMDLINE": "rdinit=/no/such/init", "WSLX_BOOT_TIMEOUT_MS": "20000"}
    for words in (["run", mini, "--", "true"], ["-d", mini, "-e", "true"]):
        r = wslx(*words, env=env)
        assert r.returncode == 255
        *console, line = r.err.splitlines()
        assert line.startswith("wslx: the machine did not start: "), r.err
        assert "Kernel panic - not syncing" in line or "time-out: the guest's agent" in line, r.err
        # What led to it, and no more.
        assert 1 <= len(console) <= 5 and all(l.startswith("console: ") for l in console), r.err
        assert "panic" in console[-1] or "time-out" in line, r.err
        # A throw-away machine leaves no log.
        assert (f"; its console: wslx logs {mini}" in line) == (words[0] == "-d"), r.err
    assert "Kernel panic" in wslx.ok("logs", mini) or "time-out" in line


def test_agent_not_in_time(wslx, mini):
    wslx.ok("terminate", mini)
    r = wslx("-d", mini, "-e", "true", env={"WSLX_BOOT_TIMEOUT_MS": "100"})
    assert r.returncode == 255
    *console, line = r.err.splitlines()
    assert "time-out: the guest's agent did not" in line and "100 ms" in line, r.err
    assert len(console) <= 5 and all(l.startswith("console: ") for l in console), r.err


def test_corrupt_state_is_named(wslx, mini):
    path = os.path.join(wslx.home, "data/distros", mini, "distro.json")
    good = open(path).read()
    try:
        open(path, "w").write("{ not json")
        wslx.fails("-d", mini, "-e", "true", needle="distro.json")
        assert wslx("list").returncode == 0
    finally:
        open(path, "w").write(good)
