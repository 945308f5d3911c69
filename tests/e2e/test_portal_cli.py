"""`wslx portal` and the broker behind it: no machine is needed for any of it."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from conftest import BUILD, TOP, Wslx, alive, wait_for

sys.path.insert(0, os.path.join(TOP, "tools"))
import soak_portal

PEER = os.path.join(BUILD, "tests/portal/portal_peer")


@pytest.fixture
def host():
    """The command line with a home of its own, and no machine."""
    home = tempfile.mkdtemp(prefix="wslx-portal-", dir="/scratch" if os.environ.get("WSLX_IN_LAB") else None)
    w = Wslx(home)
    yield w
    for r in regions(w):
        w("portal", "remove", r)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def distro(host, mini_tar):
    host.ok("import", "mini", mini_tar, "--size", "1G")
    return "mini"


def regions(w):
    return {r["name"]: r for r in json.loads(w.ok("portal", "list", "--json"))["regions"]}


def stat(w, name):
    return json.loads(w.ok("portal", "stat", name, "--json"))


def files(w):
    d = os.path.join(w.home, "run/portal")
    return sorted(os.listdir(d)) if os.path.isdir(d) else []


def peer(w, name, **kw):
    return subprocess.Popen([PEER, os.path.join(w.home, f"run/portal/{name}.sock")], **kw)


def participants(w, name):
    return [p for p in stat(w, name)["participants"] if p["index"]]


def ask(w, region, method, **params):
    """One call over the control socket, as docs/control-protocol.md has it."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(30)
        s.connect(os.path.join(w.home, f"run/portal/{region}.ctl"))
        s.sendall(json.dumps({"method": f"io.wslx.Portal.{method}", "parameters": params}).encode() + b"\0")
        data = b""
        while not data.endswith(b"\0"):
            part = s.recv(65536)
            assert part, "hung up"
            data += part
        return json.loads(data[:-1])


def status_of(pid, key):
    with open(f"/proc/{pid}/status") as f:
        return re.search(rf"^{key}:\s*(\S+)", f.read(), re.M)[1]


def test_life_of_a_region(host):
    assert host.ok("portal", "list") == ""
    assert host.ok("portal", "create", "one") == ""
    host.ok("portal", "create", "two", "--size", "1G")
    assert files(host) == sorted(f"{n}.{e}" for n in ("one", "two") for e in ("sock", "ctl", "lock"))
    seen = regions(host)
    assert seen["one"]["segments"] == 32768 and seen["two"]["segments"] == 512
    lines = host.ok("portal", "list").splitlines()
    assert lines[0].split()[0] == "NAME" and [x.split()[0] for x in lines[1:]] == ["one", "two"]
    assert "UUID" in host.ok("portal", "stat", "one")
    host.ok("portal", "remove", "one")
    wait_for("its broker is gone", lambda: not alive(seen["one"]["pid"]))
    assert list(regions(host)) == ["two"]
    assert not [f for f in files(host) if f.startswith("one")]
    host.ok("portal", "create", "one")


def test_mistakes(host):
    host.ok("portal", "create", "taken")
    host.fails("portal", "create", "taken", needle="already")
    for bad in ("a/b", "..", "", "x" * 48, "a b", ".hidden", "a\nb"):
        assert "name of a region" in host.fails("portal", "create", "--", bad)
    host.fails("portal", "create", "--", "-x", needle="name of a region")
    for bad in ("0", "1M", "2T", "x", ""):
        host.fails("portal", "create", "other", "--size", bad, needle="size of a region")
    host.fails("portal", needle="too few arguments")
    host.fails("portal", "create", needle="usage")
    host.fails("portal", "frobnicate", needle="usage")
    host.fails("portal", "list", "--size", "1G", needle="usage")
    host.fails("portal", "revoke", "taken", needle="usage")
    host.fails("portal", "revoke", "taken", "mini", "--participant", "1", needle="usage")
    for verb in ("stat", "quiesce", "resume", "remove"):
        host.fails("portal", verb, "absent", needle="no region 'absent'")
    host.fails("portal", "resume", "taken", needle="not quiesced")
    host.fails("portal", "revoke", "taken", "--participant", "x", needle="'x'")
    host.fails("portal", "revoke", "taken", "--participant", "64", needle="'64'")
    host.fails("portal", "revoke", "taken", "--participant", "5", needle="no such participant")
    host.fails("portal", "grant", "taken", "nosuch", needle="nosuch")
    host.fails("portal", "revoke", "taken", "nosuch", needle="nosuch")
    assert list(regions(host)) == ["taken"]
    assert "portal" in host.ok("--help") and "grant" in host.ok("portal", "--help")


def test_distro_called_portal(host, mini_tar):
    host.fails("import", "portal", mini_tar, needle="portal")
    assert host.distros() == {} if host("list", "--json").returncode == 0 else True


def test_two_creates_at_once(host):
    for i in range(5):
        both = [host.popen("portal", "create", f"race{i}") for _ in range(2)]
        ends = sorted(p.wait(60) for p in both)
        said = [p.stderr.read().decode() for p in both]
        for p in both:
            p.stdout.close()
            p.stderr.close()
        assert ends == [0, 255], said
        assert any("already" in s for s in said)
    assert len(regions(host)) == 5


def test_killed_broker(host):
    host.ok("portal", "create", "r")
    pid = regions(host)["r"]["pid"]
    with peer(host, "r") as p:
        wait_for("somebody takes part", lambda: participants(host, "r"))
        os.kill(pid, signal.SIGKILL)
        # It waits for a client, for 20 s: its broker's end is the end of that.
        assert p.wait(10) != 0
    wait_for("it is dead", lambda: not alive(pid))
    assert regions(host) == {}
    assert files(host) == []
    host.fails("portal", "stat", "r", needle="no region 'r'")
    host.ok("portal", "create", "r")
    assert regions(host)["r"]["pid"] != pid


def test_ended_broker_tells_and_cleans_up(host):
    host.ok("portal", "create", "r")
    pid = regions(host)["r"]["pid"]
    with peer(host, "r") as p:
        wait_for("somebody takes part", lambda: participants(host, "r"))
        os.kill(pid, signal.SIGTERM)
        assert p.wait(10) != 0
    wait_for("it ended", lambda: not alive(pid))
    assert files(host) == []


def test_stopped_broker_can_be_removed(host):
    host.ok("portal", "create", "r")
    pid = regions(host)["r"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    host.ok("portal", "remove", "r", timeout=60)
    wait_for("its broker is gone", lambda: not alive(pid))
    assert files(host) == []


def test_broker_is_confined(host):
    host.ok("portal", "create", "r")
    pid = regions(host)["r"]["pid"]
    assert status_of(pid, "NoNewPrivs") == "1" and status_of(pid, "Seccomp") == "2"
    # Whoever connects has nothing of ours but the two sockets; nobody gets a third descriptor by asking.
    before = regions(host)["r"]["descriptors"]
    for i in range(50):
        assert ask(host, "r", "Info")["parameters"]["name"] == "r"
    assert regions(host)["r"]["descriptors"] == before


def test_participants_are_seen_and_revoked(host):
    host.ok("portal", "create", "r")
    with peer(host, "r") as p:
        wait_for("its service is there", lambda: stat(host, "r")["names"])
        s = stat(host, "r")
        [who] = [q for q in s["participants"] if q["index"]]
        assert who["pid"] == p.pid and who["name"] == "peer" and who["kind"] == "process" and who["state"] == "live"
        assert s["names"][0]["name"] == "echo" and s["names"][0]["kind"] == "service"
        text = host.ok("portal", "stat", "r")
        assert "peer" in text and "echo" in text
        host.ok("portal", "quiesce", "r")
        assert regions(host)["r"]["quiesced"]
        assert "Quiesced" in host.ok("portal", "list")
        host.ok("portal", "resume", "r")
        # Until it takes note, which ends it.
        os.kill(p.pid, signal.SIGSTOP)
        host.ok("portal", "revoke", "r", "--participant", str(who["index"]))
        assert participants(host, "r")[0]["state"] == "dead"
        assert stat(host, "r")["names"] == []
        host.fails("portal", "revoke", "r", "--participant", str(who["index"]), needle="before")
        os.kill(p.pid, signal.SIGCONT)
        assert p.wait(60) != 0
    wait_for("it is gone", lambda: not participants(host, "r"))


def test_quiesce_says_who_is_late(host):
    host.ok("portal", "create", "r")
    with peer(host, "r") as p:
        try:
            wait_for("its service is there", lambda: stat(host, "r")["names"])
            os.kill(p.pid, signal.SIGSTOP)
            for seconds in (0, 1):
                err = host.fails("portal", "quiesce", "r", "--timeout", str(seconds))
                assert err == f"wslx: not at rest yet, after {seconds} s: process {p.pid} (peer); go on with: wslx portal resume r\n"
            host.ok("portal", "resume", "r")
        finally:
            p.kill()
            p.wait(60)


def test_how_long_quiesce_waits(host):
    host.ok("portal", "create", "r")
    for bad in ("-1", "61", "1s", "", "x"):
        host.fails("portal", "quiesce", "r", f"--timeout={bad}", needle="0 to 60 seconds")
    host.fails("portal", "resume", "r", "--timeout", "1", needle="usage")
    assert not regions(host)["r"]["quiesced"]
    host.ok("portal", "quiesce", "r", "--timeout", "60")
    assert regions(host)["r"]["quiesced"]


def test_kill_storm(host):
    """In small what `make soak` does a thousand times."""
    soak_portal.run(host, BUILD, 25, random.Random(1))


def test_control_protocol(host):
    host.ok("portal", "create", "r")
    failed = "io.wslx.Portal.Failed"
    bad = "org.varlink.service.InvalidParameter"
    assert ask(host, "r", "CreateObject", name="table", size=3 << 20, readers=[])["parameters"] == {}
    assert ask(host, "r", "CreateObject", name="table", size=1)["parameters"]["code"] == 17
    assert ask(host, "r", "Names")["parameters"]["names"][0]["size"] == 4 << 20
    for params in ({}, {"name": "x"}, {"name": "x", "size": -1}, {"name": "x", "size": 1, "writer": 64},
                   {"name": "x", "size": 1, "readers": [0]}, {"name": "x", "size": 1, "readers": 3}, {"name": 3, "size": 1},
                   {"name": "x", "size": 1, "readers": [1], "reader_generations": []},
                   {"name": "x", "size": 1, "reader_generations": [1]},
                   {"name": "", "size": 1}, {"name": "x", "size": 1 << 62}):
        assert ask(host, "r", "CreateObject", **params)["error"] == bad, params
    assert ask(host, "r", "CreateObject", name="a/b", size=1)["error"] == failed
    assert ask(host, "r", "CreateObject", name="huge", size=1 << 39)["error"] == failed
    assert ask(host, "r", "Grant", name="table", participant=7, right="read")["error"] == failed
    assert ask(host, "r", "Grant", name="table", participant=7, right="fly")["error"] == bad
    assert ask(host, "r", "Quiesce", timeout_ms=1 << 40)["error"] == bad
    with peer(host, "r") as p:
        wait_for("its service is there", lambda: len(ask(host, "r", "Names")["parameters"]["names"]) == 2)
        assert ask(host, "r", "Revoke", participant=1, generation=99)["parameters"]["code"] == 2
        assert ask(host, "r", "Grant", name="table", participant=1, generation=99, right="read")["parameters"]["code"] == 2
        assert ask(host, "r", "Grant", name="table", participant=1, generation=1, right="read")["parameters"] == {}
        for readers in ({"writer": 1, "writer_generation": 99}, {"readers": [1], "reader_generations": [99]}):
            assert ask(host, "r", "CreateObject", name="other", size=1, **readers)["parameters"]["code"] == 2
        assert ask(host, "r", "CreateObject", name="other", size=1, writer=1, writer_generation=1,
                   readers=[1], reader_generations=[1])["parameters"] == {}
        assert ask(host, "r", "Unpublish", name="other")["parameters"] == {}
        # It has not asked for anything since, and does so when it is told.
        assert ask(host, "r", "Grant", name="table", participant=1, right="write")["parameters"] == {}
        assert [q["segments"] for q in ask(host, "r", "Participants")["parameters"]["participants"]][1] == 6
        os.kill(p.pid, signal.SIGSTOP)
        assert ask(host, "r", "Grant", name="table", participant=1, right="none", timeout_ms=50)["error"] == failed
        p.kill()
        p.wait(60)
    assert ask(host, "r", "Unpublish", name="table")["parameters"] == {}
    assert ask(host, "r", "Unpublish", name="table")["error"] == failed
    assert ask(host, "r", "Shutdown")["parameters"] == {}
    wait_for("it ended", lambda: files(host) == [])


def test_grants_are_kept_with_the_distro(host, distro):
    host.fails("portal", "grant", "bus", distro, needle="no region 'bus'")
    host.ok("portal", "create", "bus")
    host.ok("portal", "create", "other")
    assert host.ok("portal", "grant", "bus", distro, "--size", "16M") == ""
    host.ok("portal", "grant", "other", distro.upper(), "--read-only", "--as", "the:other")
    config = host.ok("config", distro)
    assert "portal=bus:16M\n" in config and "portal=other:ro:the:other\n" in config
    assert stat(host, "bus")["grants"] == [{"distro": distro, "as": "bus", "access": "rw", "size": 16 << 20}]
    assert "Granted to mini as the:other: to read only" in host.ok("portal", "stat", "other")
    # Again: another size, in the same place.
    host.ok("portal", "grant", "bus", distro, "--size", "4M")
    assert "portal=bus:4M\n" in host.ok("config", distro)
    for args, needle in ((("--size", "0"), "size"), (("--size", "2G"), "size"), (("--as", "a/b"), "a/b"),
                         (("--size", "512M"), "window"), (("--as", "the:other"), "already"),
                         (("--read-only", "--size", "4M"), "size")):
        host.fails("portal", "grant", "bus", distro, *args, needle=needle)
    host.fails("config", distro, "portal-window=100M", needle="window")
    host.fails("config", distro, "portal=bus", needle="no grant")
    host.fails("config", distro, "portal=b/s:4M", needle="region")
    host.ok("config", distro, "portal-window=1G")
    host.ok("portal", "grant", "bus", distro, "--size", "512M")
    host.fails("config", distro, "portal-window=", needle="too small for what is granted, which takes")
    # Regions come and go; what is granted stays until it is taken back, also without the region.
    host.ok("portal", "remove", "bus")
    host.ok("portal", "revoke", "bus", distro)
    host.fails("portal", "revoke", "bus", distro, needle="no grant")
    host.ok("portal", "revoke", "other", distro)
    host.ok("config", distro, "portal-window=")
    assert "portal" not in host.ok("config", distro)
    with open(os.path.join(host.home, "data/distros/mini/distro.json")) as f:
        assert not [k for k in json.load(f) if k.startswith("portal")]


def test_sizes_of_grants(host, distro):
    host.ok("portal", "create", "small", "--size", "16M")
    # The host's own part is 2 MiB of it; what is rounded up is said.
    for size in ("15M", "16M", "17M", "64M"):
        how = "the region 'small' has 16M, and 2M of that are the host's own: grant at most 14M"
        assert host.fails("portal", "grant", "small", distro, "--size", size) == f"wslx: {how}\n"
        assert host.fails("config", distro, f"portal=small:{size}") == f"wslx: {how}\n"
    assert "portal" not in host.ok("config", distro)
    assert host.ok("portal", "grant", "small", distro, "--size", "14M") == ""
    rounded = "13M is rounded up to 14M: a region is granted in pieces of 2M"
    assert host.ok("portal", "grant", "small", distro, "--size", "13M") == rounded + "\n"
    assert host("config", distro, "portal=small:13M").err == f"wslx: warning: portal=small: {rounded}\n"
    assert host("config", distro, "cpus=1").err == ""
    assert "portal=small:14M\n" in host.ok("config", distro)
    # Where the region is not there yet, creating it says so.
    host.ok("config", distro, "portal=later:14M")
    assert host("portal", "create", "later", "--size", "16M").err == ""
    assert host.ok("portal", "remove", "later").startswith("mini keeps its grant")
    host.ok("config", distro, "portal=later:16M")
    r = host("portal", "create", "later", "--size", "16M")
    assert r.returncode == 0 and r.err.startswith("wslx: warning: mini cannot take part as it was granted: the region"), r.err


def test_grants_that_fit_a_window_only_singly(host, distro):
    for region in ("one", "two"):
        host.ok("portal", "create", region)
    tables = stat(host, "one")["region"]["own_segments"] * 2
    assert tables > 2
    host.ok("portal", "grant", "one", distro, "--size", "118M")
    error = (f"wslx: the machine's window has 256M, and {122 + tables}M of that are taken: there is no room for the {118 + tables}M "
             f"that the region 'two' takes, with the host's tables; enlarge it: wslx config {distro} portal-window=512M\n")
    assert host.fails("portal", "grant", "two", distro, "--size", "118M") == error
    assert host.fails("config", distro, "portal=two:118M") == error
    assert "portal=two" not in host.ok("config", distro)
    host.ok("config", distro, "portal-window=512M")
    host.ok("portal", "grant", "two", distro, "--size", "118M")
    for size in ("", "256M"):
        error = host.fails("config", distro, f"portal-window={size}", needle="a window of 256M is too small for what is granted, which takes")
        assert error.endswith(f"`wslx config {distro} portal-window=512M`\n")
    # Where the region is not there yet, creating it says so.
    host.ok("portal", "remove", "two")
    host.ok("portal", "revoke", "two", distro)
    host.ok("config", distro, "portal-window=")
    host.ok("config", distro, "portal=two:104M")
    r = host("portal", "create", "two")
    assert r.returncode == 0 and r.err.startswith(f"wslx: warning: {distro} cannot take part as it was granted: the machine's window"), r.err


def test_a_region_that_is_removed_names_its_grants(host, distro):
    host.ok("portal", "create", "bus")
    assert host.ok("portal", "remove", "bus") == ""
    host.ok("portal", "create", "bus")
    host.ok("portal", "grant", "bus", distro)
    [line] = host.ok("portal", "remove", "bus").splitlines()
    what, how = line.split(": wslx ")
    assert what == "mini keeps its grant, for the next region of that name; to take it back"
    assert host.ok(*how.split()) == ""
    assert "portal" not in host.ok("config", distro)
    host.ok("portal", "create", "bus")
    assert host.ok("portal", "remove", "bus") == ""


def test_damaged_grants(host, distro):
    path = os.path.join(host.home, "data/distros/mini/distro.json")
    with open(path) as f:
        good = json.load(f)
    for key, value in (("portal", "bus:4M"), ("portal", [1]), ("portal", ["bus"]), ("portal", ["bus:4M"] * 2 + ["x:9G"]),
                       ("portal", [f"r{i}:2M" for i in range(9)]), ("portal-window", 100), ("portal-window", "1G")):
        with open(path, "w") as f:
            json.dump(dict(good, **{key: value}), f)
        host.fails("config", distro, needle="distro.json")
    with open(path, "w") as f:
        json.dump(good, f)
    host.ok("config", distro)


def test_a_machine_without_a_window_takes_a_grant_at_its_next_start(wslx, mini):
    assert wslx.ok("-d", mini, "-e", "echo", "up") == "up\n"
    wslx.ok("portal", "create", "late")
    try:
        assert "next start" in wslx.ok("portal", "grant", "late", mini)
        assert "portal=late:8M\n" in wslx.ok("config", mini)
        wslx.ok("portal", "revoke", "late", mini)
        assert wslx.ok("-d", mini, "-e", "echo", "still up") == "still up\n"
    finally:
        wslx.ok("portal", "remove", "late")
