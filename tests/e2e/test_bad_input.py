"""Mistakes: one clear line, a non-zero status, nothing left behind."""

import os
import pathlib
import subprocess
import tempfile

import pytest


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
    wslx.fails("import", "k", "/dev/null", "--kernel", "nosuchkernel", needle="nosuchkernel")


def test_full_disk_while_importing(wslx, prepared, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    mnt = tmp_path / "small"
    mnt.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(mnt)], check=True)
    try:
        r = wslx("import", "big", os.path.join(prepared, "debian.tar"), env={"WSLX_HOME": str(mnt)})
        assert r.returncode == 255 and ("space" in r.err or "full" in r.err), r.err
        assert "big" not in wslx.ok("list", "-q", env={"WSLX_HOME": str(mnt)})
        assert not [f for f in os.listdir(mnt / "data/distros") if "big" in f]
    finally:
        subprocess.run(["umount", str(mnt)], check=True)


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
    wslx.fails("-d", mini, "-e", "true", needle="qemu", env=only_path(tmp_path, "passt", "mke2fs"))


def test_unknown_engine_and_values(wslx, mini):
    wslx.fails("run", mini, "--engine", "warp", needle="warp")
    wslx.fails("run", mini, "--cpus", "0")
    wslx.fails("run", mini, "--cpus", "many")
    wslx.fails("run", mini, "--memory", "12Q")
    wslx.fails("run", mini, "--memory", "1K")
    wslx.fails("run", mini, "--publish", "99999:1")
    wslx.fails("run", mini, "--publish", "x")
    wslx.fails("run", mini, "--net", "carrier-pigeon")


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


def test_agent_that_never_answers(wslx, mini):
    """init= has no meaning for an initramfs, rdinit= does: a machine whose agent cannot start."""
    r = wslx("run", mini, "--", "true", env={"WSLX_CMDLINE": "rdinit=/no/such/init", "WSLX_BOOT_TIMEOUT_MS": "20000"})
    assert r.returncode == 255
    assert "panic" in r.err.lower() or "agent" in r.err.lower()


def test_corrupt_state_is_named(wslx, mini):
    path = os.path.join(wslx.home, "data/distros", mini, "distro.json")
    good = open(path).read()
    try:
        open(path, "w").write("{ not json")
        wslx.fails("-d", mini, "-e", "true", needle="distro.json")
        assert wslx("list").returncode == 0
    finally:
        open(path, "w").write(good)
