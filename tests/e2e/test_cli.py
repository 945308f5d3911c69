"""What a user meets at the command line: hints, defaults, wsl.exe's spellings, export."""

import glob
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import tarfile
import tempfile

import pytest

from conftest import BUILD, TOP, Wslx, alive, children_of, wait_for


# ---- Who has the disk

@pytest.fixture
def two_runtimes(prepared, mini_tar):
    """One store and two runtime folders, as of a login and of a service."""
    base = tempfile.mkdtemp(prefix="wslx-xdg-", dir="/scratch" if os.environ.get("WSLX_IN_LAB") else None)
    views = []
    for run in ("run1", "run2"):
        os.mkdir(f"{base}/{run}", 0o700)
        w = Wslx(base)
        del w.env["WSLX_HOME"]
        w.env.update(XDG_DATA_HOME=f"{base}/data", XDG_STATE_HOME=f"{base}/state", XDG_RUNTIME_DIR=f"{base}/{run}")
        views.append(w)
    os.makedirs(f"{base}/data/wslx/kernels")
    shutil.copytree(os.path.join(prepared, "home/data/kernels/cloud"), f"{base}/data/wslx/kernels/cloud")
    views[0].ok("import", "there", mini_tar, "--kernel", "cloud", "--size", "1G")
    yield views
    views[0]("shutdown", "--force")
    shutil.rmtree(base, ignore_errors=True)


def test_another_runtime_folder_is_named(two_runtimes):
    here, elsewhere = two_runtimes
    here.sh("true", distro="there")
    err = elsewhere.fails("-d", "there", "-e", "true", needle="machine 'there'")
    assert f"set XDG_RUNTIME_DIR={here.env['XDG_RUNTIME_DIR']}," in err
    assert str(here.vmm_pid("there")) in err and len(err.splitlines()) == 1


def test_throwaway_over_a_stopped_distro(wslx, mini):
    """Where the host's file system cannot clone, the distro waits; it is said for what, and what ends that."""
    p = wslx.popen("run", mini, "--", "echo up; exec sleep 1000")
    try:
        assert p.stdout.readline() == b"up\n"
        if not glob.glob(os.path.join(wslx.home, "state/machines/run-*/disk.wslxo")):
            return  # cloned
        err = wslx.fails("-d", mini, "-e", "true", needle="`wslx run`")
        wslx.fails("unregister", mini, needle="or stop it: wslx terminate run-")
        wslx.ok("terminate", re.search(r"wslx terminate (run-\S+)", err)[1])
        assert p.wait(60) != 0
    finally:
        p.kill()
        p.wait()
    assert wslx.sh("echo on", distro=mini) == "on\n"


@pytest.mark.engine("kvm")
def test_lab_has_a_runtime_folder(wslx):
    """Not the outer host's in /tmp, which is seen through the lab's file tree."""
    if os.environ.get("WSLX_IN_LAB"):
        st = os.stat(os.environ["XDG_RUNTIME_DIR"])
        assert st.st_uid == os.geteuid() and stat.S_IMODE(st.st_mode) == 0o700
        env = {k: v for k, v in wslx.env.items() if k != "WSLX_HOME"}
        subprocess.run([f"{BUILD}/wslx", "list", "-q"], env=env, check=True)


# ---- Hints and settings

def test_hint_has_the_whole_command(wslx):
    wslx.fails("uname", "-a", "a b", needle="`wslx -- uname -a 'a b'`")
    wslx.fails("ls | wc -l", needle="`wslx -- 'ls | wc -l'`")
    wslx.fails("two\nlines", needle="`wslx -- CMD...`")


def test_config_shows_what_counts(wslx, mini):
    out = wslx.ok("config", mini)
    assert re.search(r"^memory=\d+M \(default\)$", out, re.M) and re.search(r"^cpus=\d+ \(default\)$", out, re.M)
    assert "user=root (default)\n" in out and "kernel=cloud\n" in out and "net=passt (default)\n" in out
    wslx.ok("config", mini, "memory=256M", "cpus=1")
    out = wslx.ok("config", mini)
    assert "memory=256M\n" in out and "cpus=1\n" in out


def test_config_json(wslx, mini):
    new = json.loads(wslx.ok("config", mini, "--json"))
    unset = ["engine", "memory", "cpus", "user", "net", "publish", "portal", "portal_window"]
    assert new.pop("defaults") == unset and set(new) == {"name", "kernel", *unset}
    assert new["name"] == mini and new["kernel"] == "cloud" and new["user"] == "root" and new["net"] == "passt"
    assert (new["engine"], new["publish"], new["portal"], new["portal_window"]) == ("auto", [], [], 256 << 20)
    listed = wslx.distros()[mini]
    assert (new["memory"], new["cpus"]) == (listed["memory"], listed["cpus"])
    wslx.ok("config", mini, "memory=300M", "cpus=1", "publish=8080:80", "publish=[::1]:53:53/udp", "portal-window=64M",
            "portal=bus:16M:inside")
    now = json.loads(wslx.ok("config", mini.upper(), "--json"))
    assert now["defaults"] == ["engine", "user", "net"]
    assert (now["name"], now["memory"], now["cpus"], now["portal_window"]) == (mini, 300 << 20, 1, 64 << 20)
    # As they are given.
    text = wslx.ok("config", mini).splitlines()
    assert [f"publish={p}" for p in now["publish"]] == [s for s in text if s.startswith("publish=")]
    assert [f"portal={p}" for p in now["portal"]] == ["portal=bus:16M:inside"]
    wslx.fails("config", mini, "--json", "cpus=2", needle="--json")
    assert "--json" in wslx.ok("config", "--help") and "portal_window" in wslx.ok("config", "--help")
    wslx.ok("config", mini, "portal=", "publish=")


def test_config_user_is_checked(wslx, mini):
    r = wslx("config", mini, "user=user")
    assert r.returncode == 0 and "not checked" in r.err
    assert wslx.sh("id -un", distro=mini) == "user\n"
    wslx.fails("config", mini, "user=nobodyhere", needle="no user 'nobodyhere'")
    wslx.fails("--manage", mini, "--set-default-user", "nobodyhere", needle="no user 'nobodyhere'")
    wslx.fails("config", mini, "user=-x", needle="no name of a user")
    assert "user=user\n" in wslx.ok("config", mini)
    r = wslx("--manage", mini, "--set-default-user", "root")
    assert (r.returncode, r.err) == (0, "")
    assert "user=root\n" in wslx.ok("config", mini)


def test_least_memory(wslx, mini, mini_tar):
    wslx.fails("run", mini, "--memory=0", "--", "true", needle="memory of 0")
    wslx.fails("import", "small", mini_tar, "--memory", "64M", needle="96M")
    wslx.fails("config", mini, "kernel=", "memory=64M", needle="96M")
    for kernel in ("cloud", "standard"):
        assert wslx.ok("run", mini, "--memory", "96M", "--kernel", kernel, "--", "echo up") == "up\n"


# ---- doctor and status, without any machine

@pytest.fixture
def fresh(tmp_path):
    """Nothing is installed."""
    return Wslx(str(tmp_path))


def test_doctor_without_a_kernel(fresh):
    last = fresh("doctor").out.splitlines()[-1]
    assert re.fullmatch(r"Machines can run here, on the (kvm|tcg) engine; no kernel is installed yet: "
                        "wslx install debian", last), last


def test_machine_that_does_not_answer(wslx, mini):
    wslx.sh("true", distro=mini)
    pid = wslx.vmm_pid(mini)
    os.kill(pid, signal.SIGSTOP)
    try:
        how = f"machine '{mini}' does not answer; to stop it: wslx terminate --force {mini}"
        assert len(wslx.fails("-d", mini, "-e", "true", needle=how, timeout=60).splitlines()) == 1
        wslx.fails("stats", mini, needle=how)
        r = wslx("list", "-v")
        assert re.search(rf"^[ *] {mini} +Not answering +2$", r.out, re.M) and how in r.err
        started = children_of(pid)
        assert len(started) > 1
        wslx.ok("terminate", "--force", mini)
        assert not [p for p in [pid, *started] if alive(p)]
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    wslx.sh("true", distro=mini)


def test_doctor_promises_what_there_is(fresh):
    """Neither engine has a DAX window, both revoke."""
    assert not re.search("DAX|revocation|snapshots", fresh.ok("doctor"))


def test_broken_state_is_a_warning(fresh, mini_tar):
    fresh.ok("import", "one", mini_tar, "--size", "1G")
    data = pathlib.Path(fresh.home, "data")
    assert " distro " not in fresh.ok("doctor")
    (data / "config.json").write_text("{ not json")
    r = fresh("status")
    assert r.returncode == 0 and "config.json" in r.err and len(r.err.splitlines()) == 1
    assert "Default Distribution: none" in r.out
    (data / "distros/one/distro.json").write_text("{ not json")
    lines = [s for s in fresh.ok("doctor").splitlines() if s.split()[1:2] == ["distro"]]
    assert [s.split()[:3] for s in lines] == [["warn", "distro", "config.json"], ["warn", "distro", "one"]], lines
    assert "distro.json" in lines[1]


# ---- wsl.exe's words

def test_home_alone(fresh, wslx):
    """`wslx ~`, of which the shell makes `wslx $HOME`: a shell at home."""
    for word in ("~", "/some/where"):
        fresh.fails(word, needle="no distribution is installed", env={"HOME": "/some/where"})
        assert wslx(word, input="pwd\n", env={"HOME": "/some/where"}).out == "/root\n"
    fresh.fails("/some/where/else", needle="unknown verb", env={"HOME": "/some/where"})
    fresh.fails("~", "ls", needle="unknown verb")

def test_words_of_wsl(wslx, mini):
    wslx.ok("--set-default-version", "2")
    wslx.fails("--set-default-version", "1", needle="no version 1")
    wslx.ok("--set-version", mini, "2")
    wslx.fails("--set-version", "nosuch", "2", needle="nosuch")
    wslx.fails("--import", "one", "/dev/null", "--version", "1", needle="no version 1")
    assert "debian" in wslx.ok("--list", "--online") and wslx.ok("-l", "-o", "-q") == "debian\n"
    wslx.fails("-l", "-o", "--running", needle="--online")
    assert "version" in wslx.ok("--version").lower()
    assert "Default Distribution:" in wslx.ok("--status")
    for words in (("--update",), ("--mount", "--vhd", "x"), ("--unmount",), ("--uninstall",), ("--debug-shell",),
                  ("--import-in-place", "x", "y.vhdx"), ("--system",), ("--import", "x", "y.vhdx", "--vhd"),
                  ("--manage", mini, "--move", "/x"), ("--manage", mini, "--resize", "2G"),
                  ("--manage", mini, "--set-sparse", "false"), ("--export", mini, "x.vhdx"),
                  ("--export", mini, "x", "--format", "vhd"), ("--export", mini, "x.vhdx", "--vhd"),
                  ("--install", "debian", "--location", "/x"), ("--install", "--version", "1")):
        assert len(wslx.fails(*words).splitlines()) == 1


def shown_recipe(wslx, distro, size, new):
    """What `manage --resize` says to do, ready to be typed."""
    err = wslx.fails("--manage", distro, "--resize", size, needle="a disk keeps its size")
    assert len(err.splitlines()) == 1
    recipe, = (s for s in err.split("`") if s.startswith("wslx terminate "))
    assert recipe.count("NEW-NAME") == 1
    return recipe.replace("NEW-NAME", new), err


def test_another_size_as_the_message_says(wslx, mini):
    """Twice, each time literally; of a machine that runs, too."""
    wslx.fails("--manage", "nosuch", "--resize", "2G", needle="nosuch")
    wslx.fails("--manage", mini, "--resize", "large", needle="no size")
    wslx.sh("echo kept >/root/kept; chown 1000:1000 /root/kept; chmod 4711 /root/kept", distro=mini)
    env = dict(wslx.env, PATH=f"{BUILD}:{os.environ['PATH']}")
    made, last = [], mini
    try:
        for size, bytes_ in (("2G", 2 << 30), ("512M", 512 << 20)):
            assert wslx.state(last) == "Running"
            recipe, err = shown_recipe(wslx, last, size, f"{mini}-{size}")
            assert "not taken along" not in err
            made.append(f"{mini}-{size}")
            subprocess.run(["sh", "-c", recipe], env=env, check=True, stdin=subprocess.DEVNULL, timeout=300)
            last = made[-1]
            assert wslx.distros()[last]["disk_size"] == bytes_
            kept = wslx.sh("stat -c '%a %u' /root/kept; cat /root/kept", distro=last)
            assert kept.split() == ["4711", "1000", "kept"]
            kib = int(wslx.sh("df -k / | tail -n 1", distro=last).split()[1])
            assert bytes_ // 2 < kib * 1024 <= bytes_
        wslx.ok("config", last, "memory=300M")
        assert f"not taken along; they are shown by: wslx config {last})" in shown_recipe(wslx, last, "1G", "x")[1]
    finally:
        for name in made:
            wslx("unregister", name)


def test_install_no_launch(fresh, mini_tar):
    fresh.ok("--install", "-d", "mine", "--from-file", mini_tar, "--size", "1G", "--no-launch", "--web-download")
    assert fresh.ok("list", "-q") == "mine\n"
    fresh.fails("--install", "debian", "-d", "mine", needle="one distribution")


def test_import_version_2(wslx, mini_tar):
    wslx.ok("--import", "second", mini_tar, "--version", "2", "--size", "1G")
    wslx.ok("unregister", "second")


# ---- Export

def test_export_and_import_again(wslx, mini, tmp_path):
    wslx.sh("echo kept >/root/kept; ln -s kept /root/link; chmod 4711 /root/kept; touch -d @1234567890 /root/kept; "
            "dd if=/dev/zero of=/root/holes bs=1 count=1 seek=100000000 2>/dev/null", distro=mini)
    wslx.fails("--export", mini, str(tmp_path / "x.tar"), needle="wslx terminate")
    wslx.ok("terminate", mini)
    plain, gz = tmp_path / "x.tar", tmp_path / "x.tar.gz"
    wslx.ok("--export", mini, str(plain))
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    wslx.fails("export", mini, str(plain), needle="exists")
    wslx.ok("export", mini, str(gz))
    assert gz.read_bytes()[:2] == b"\x1f\x8b" and gz.stat().st_size < plain.stat().st_size < 50_000_000
    with tarfile.open(plain) as t:
        assert t.getmember("./root/kept").mode == 0o4711
    # From one to the other without a file between.
    out = wslx.popen("export", mini, "-")
    assert wslx("import", f"{mini}-2", "-", "--kernel", "cloud", stdin=out.stdout, input=None).returncode == 0
    assert out.wait(60) == 0
    try:
        assert wslx.sh("cd /root; cat link; stat -c '%a %u %Y' kept; du -k holes | head -c 1; wc -c <holes",
                       distro=f"{mini}-2").split() == ["kept", "4711", "0", "1234567890", "4100000001"]
    finally:
        wslx.ok("unregister", f"{mini}-2")


def test_export_after_a_kill(wslx, mini, tmp_path):
    """What is in the journal alone is exported too."""
    wslx.sh("echo synced >/root/synced; sync", distro=mini)
    pid = wslx.vmm_pid(mini)
    kids = children_of(pid)
    os.kill(pid, signal.SIGKILL)
    for p in (pid, *kids):
        wait_for(f"process {p} is gone", lambda p=p: not alive(p))
    wslx.ok("export", mini, str(tmp_path / "x.tar"))
    with tarfile.open(tmp_path / "x.tar") as t:
        assert t.extractfile("./root/synced").read() == b"synced\n"
    assert wslx.sh("cat /root/synced", distro=mini) == "synced\n"


def test_export_that_is_cut_short(fresh, mini_tar, tmp_path):
    """Nothing ever has the archive's name but a whole archive."""
    fresh.ok("import", "one", mini_tar, "--size", "1G")
    # It takes long to compress.
    noise = tmp_path / "noise/etc"
    noise.mkdir(parents=True)
    (noise / "noise").write_bytes(os.urandom(100 << 20))
    subprocess.run(["tar", "-C", noise.parent, "-cf", str(tmp_path / "noise.tar"), "etc"], check=True)
    fresh.ok("import", "noise", str(tmp_path / "noise.tar"), "--size", "1G")
    out = tmp_path / "out"
    out.mkdir()
    target = out / "x.tar.xz"

    def writes(p):
        """It has begun to write to a file in that folder, which may have no name yet."""
        try:
            fds = list(pathlib.Path(f"/proc/{p.pid}/fd").iterdir())
            return any(os.readlink(f).startswith(f"{out}/") and f.stat().st_size for f in fds)
        except OSError:  # one that was closed meanwhile
            return False

    def started(stop):
        p = fresh.popen("export", "noise", str(target))
        wait_for("the export has begun", lambda: writes(p))
        assert not target.exists()
        p.send_signal(stop)
        p.wait(60)
        assert not target.exists()

    started(signal.SIGTERM)
    assert not list(out.iterdir())
    started(signal.SIGKILL)
    left = list(out.iterdir())
    try:
        os.close(os.open(out, os.O_TMPFILE | os.O_WRONLY))
        assert not left
    except OSError:  # no files without a name here
        assert len(left) == 1
    for part in left:
        assert part.name.startswith(".wslx-export-") and stat.S_IMODE(part.stat().st_mode) == 0o600
        part.unlink()

    # Somebody else's file of that name stays.
    p = fresh.popen("export", "noise", str(out / "x.tar.gz"))
    wait_for("the export has begun", lambda: writes(p))
    (out / "x.tar.gz").write_text("mine")
    err = p.communicate()[1].decode()
    assert p.returncode == 255 and "somebody else" in err.splitlines()[-1], err
    assert (out / "x.tar.gz").read_text() == "mine" and len(list(out.iterdir())) == 1

    fresh.ok("export", "one", str(out / "y.tar"))
    fresh.ok("export", "one", "z.tar", cwd=str(out))
    assert sorted(f.name for f in out.iterdir()) == ["x.tar.gz", "y.tar", "z.tar"]
    assert stat.S_IMODE((out / "y.tar").stat().st_mode) == 0o600
    fresh.fails("export", "one", str(out) + "/none/", needle="none/")
    fresh.fails("export", "one", "", needle="no name of a file")


def test_export_mistakes(wslx, mini, tmp_path):
    wslx.fails("export", "nosuch", str(tmp_path / "x"), needle="nosuch")
    wslx.fails("export", mini, str(tmp_path / "no/such/x"), needle="no/such/x")
    wslx.fails("export", mini, str(tmp_path / "x"), "--format", "zip", needle="zip")
    wslx.fails("export", mini, str(tmp_path / "x.tar.zst"), needle="zstd")
    wslx.fails("export", mini, "/dev/full", needle="space")
    assert os.listdir(tmp_path) == []


# ---- Long work in a log

def test_long_work_says_so_in_a_log():
    r = subprocess.run(["bash", "-c", ". tools/long.sh; LONG_PERIOD=1 long working sleep 2.5; long x sh -c 'exit 3'"],
                       cwd=TOP, capture_output=True, text=True, timeout=60)
    assert r.returncode == 3 and r.stdout == ""
    said = r.stderr.splitlines()
    assert said and all(re.fullmatch(r"==> still working \(\d+ s\)", s) for s in said), said
