"""Real work in real machines: kernels, processors, a compile, packages, disks."""

import json
import os
import re
import subprocess

import pytest

from conftest import ENGINE


@pytest.mark.parametrize("kernel", ["cloud", "standard"])
@pytest.mark.parametrize("cpus", [1, 2])
def test_kernels_and_processors(wslx, kernel, cpus):
    out = wslx.ok("run", "debian", "--kernel", kernel, "--cpus", str(cpus), "--", "nproc; uname -r", timeout=600)
    n, release = out.split()
    assert int(n) == cpus
    assert ("cloud" in release) == (kernel == "cloud")


@pytest.mark.engine("tcg")
def test_clock_has_the_rate_of_the_host(wslx):
    """An emulated CPU's counter is the host's.  The kernel is told its rate: on a busy host it would measure another."""
    out = wslx.ok("run", "debian", "--cpus", "2", "--", "cat /proc/cmdline; dmesg | grep 'tsc: Detected'", timeout=600)
    told = int(re.search(r"tsc_early_khz=(\d+)", out)[1])
    # Of the processor, and then of the counter if that is another.
    assert round(float(re.findall(r"tsc: Detected (\S+) MHz", out)[-1]) * 1000) == told


def test_engine_is_the_one_asked_for(wslx):
    wslx.sh("true")
    assert wslx.distros()["debian"]["engine"] == ENGINE


def test_compile(wslx):
    out = wslx.sh("cd /tmp && printf '#include <stdio.h>\\nint main(void) { puts(\"compiled\"); }\\n' >t.c "
                  "&& gcc -O2 t.c -o t && ./t", timeout=600)
    assert out == "compiled\n"


def test_package_from_a_local_archive(wslx):
    wslx.sh("echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list; rm -f /etc/apt/sources.list.d/*; "
            "apt-get update -q && apt-get install -y -q hello", timeout=600)
    assert "Hello, world!" in wslx.sh("hello")


def test_machine_looks_like_a_distro(wslx):
    out = wslx.sh("cat /proc/1/comm; hostname; mount | grep ' / '; cat /sys/fs/cgroup/cgroup.controllers; "
                  "ls /lib/modules/$(uname -r)/kernel >/dev/null && echo modules")
    assert "modules" in out and "ext4" in out


def test_namespaces_are_its_own(wslx):
    """Process 1 is the distro's own and the agent is not visible."""
    pids = wslx.sh("ps -e -o pid,comm")
    assert "kthreadd" not in pids


def test_modprobe_on_demand(wslx):
    """A file system that is a module is loaded by the kernel's own request."""
    wslx.sh("mkdir -p /tmp/m && mount -t tmpfs x /tmp/m && dd if=/dev/zero of=/tmp/m/i bs=1M count=8 2>/dev/null "
            "&& modprobe loop 2>/dev/null; true")
    assert "overlay" in wslx.sh("mkdir -p /tmp/l /tmp/u /tmp/w /tmp/o; mount -t tmpfs t /tmp/u; "
                                "mkdir /tmp/u/u /tmp/u/w; "
                                "mount -t overlay o -o lowerdir=/tmp/l,upperdir=/tmp/u/u,workdir=/tmp/u/w /tmp/o && "
                                "grep overlay /proc/filesystems")


def test_modprobe_after_many_misses(wslx, mini):
    """Names that nobody has ever heard of, more than are searched for at once, and then a module that is there."""
    out = wslx.sh("for i in $(seq 80); do mount -t nosuch$i none /tmp 2>/dev/null; done; "
                  "cat /proc/filesystems; echo; mount -t squashfs none /tmp 2>/dev/null; cat /proc/filesystems", distro=mini)
    before, after = out.split("\n\n")
    assert "squashfs" not in before and "squashfs" in after


def test_disk_persists_and_flushes(wslx, mini):
    wslx.sh("echo kept >/root/f; sync", distro=mini)
    wslx.ok("terminate", mini)
    assert wslx.sh("cat /root/f", distro=mini) == "kept\n"


def test_discard_gives_space_back(wslx, mini):
    disk = os.path.join(wslx.home, "data/distros", mini, "disk.img")
    wslx.sh("dd if=/dev/urandom of=/root/big bs=1M count=64 2>/dev/null; sync", distro=mini)
    full = os.stat(disk).st_blocks * 512
    wslx.sh("rm /root/big; sync", distro=mini)
    wslx.ok("terminate", mini)
    assert os.stat(disk).st_blocks * 512 < full - (48 << 20)


def test_image_is_clean_after_terminate(wslx, mini):
    wslx.sh("touch /root/x", distro=mini)
    wslx.ok("terminate", mini)
    disk = os.path.join(wslx.home, "data/distros", mini, "disk.img")
    r = subprocess.run(["/sbin/e2fsck", "-fn", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert r.returncode == 0, r.stdout


def test_run_leaves_nothing(wslx, mini):
    before = sorted(os.listdir(os.path.join(wslx.home, "data")))
    assert wslx.ok("run", mini, "--", "echo gone >/root/thrown && cat /root/thrown") == "gone\n"
    assert wslx("-d", mini, "-e", "cat", "/root/thrown").returncode != 0
    assert sorted(os.listdir(os.path.join(wslx.home, "data"))) == before
    assert not [d for d in wslx.distros() if d not in ("debian", mini)]
    assert not [m for m in os.listdir(os.path.join(wslx.home, "run")) if m.startswith("run-")]


def test_run_a_tar_file(wslx, mini_tar):
    assert wslx.ok("run", mini_tar, "--kernel", "cloud", "--", "echo from a file") == "from a file\n"


def disk_stats(wslx, machine):
    """What the root disk has done."""
    stats = json.loads(wslx.ok("stats", machine, "--json"))
    return {k.split(".", 1)[1]: v for k, v in stats.items() if k.startswith("blk0.")}


def test_throw_away_disks_are_not_synced(wslx, mini):
    """A power loss may take them; a flush in there does not wait for the host's disk."""
    wslx.sh("echo x >/root/f; sync", distro=mini)
    stats = disk_stats(wslx, mini)
    assert stats["flushes"] > 0 and stats["syncs"] >= stats["flushes"]
    wslx.ok("terminate", mini)
    before = set(os.listdir(os.path.join(wslx.home, "run")))
    p = wslx.popen("run", mini, "--", "echo x >/root/f; sync; echo synced; cat", stdin=subprocess.PIPE)
    assert p.stdout.readline() == b"synced\n"
    machine, = [m for m in set(os.listdir(os.path.join(wslx.home, "run"))) - before if m.startswith("run-")]
    stats = disk_stats(wslx, machine)
    p.communicate(timeout=120)
    assert stats["flushes"] > 0 and stats["syncs"] == 0
