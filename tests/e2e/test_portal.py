"""One region for the host and two machines.  The programs are those of examples/portal: the same source, on the host
against glibc, in the machines static against musl."""

import hashlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys

import pytest

from conftest import BUILD, TOP, free_port, wait_for

sys.path[:0] = [os.path.join(TOP, "tools"), os.path.join(TOP, "tests/portal")]
import client
import soak_guests
import soak_portal

EXAMPLES = os.path.join(BUILD, "examples/portal")
ANSWER = "42\n1999998\n"


def put(wslx, distro, path, where):
    with open(path, "rb") as f:
        wslx.ok("-d", distro, "-e", "/bin/sh", "-c", f"cat >{where} && chmod 755 {where}", stdin=f, input=None)


class Shared:
    """A region granted to distros, which have the example programs."""

    def __init__(self, wslx, tar, n):
        self.wslx, self.region = wslx, f"r{os.urandom(4).hex()}"
        self.distros = [f"portal{os.urandom(4).hex()}" for _ in range(n)]
        wslx.ok("portal", "create", self.region)
        for d in self.distros:
            wslx.ok("import", d, tar, "--kernel", "cloud", "--size", "1G")
            wslx.ok("portal", "grant", self.region, d, "--size", "16M")
            for name in ("client", "server", "direct", "save", "records"):
                put(wslx, d, os.path.join(EXAMPLES, f"portal_{name}_musl"), f"/usr/bin/{name}")

    def close(self):
        for d in self.distros:
            self.wslx("terminate", d)
            self.wslx("unregister", d)
        self.wslx("portal", "remove", self.region)

    def host(self, program, *argv):
        """Output as text in the order of its writing; the caller waits."""
        return subprocess.Popen([os.path.join(EXAMPLES, f"portal_{program}"), self.region, *argv],
                                env=dict(os.environ, WSLX_HOME=self.wslx.home), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def inside(self, i, program, *argv, **kw):
        return self.wslx.popen("-d", self.distros[i], "-e", f"/usr/bin/{program}", self.region, *argv, **kw)

    def asks(self, client, server):
        """The client has its numbers doubled, and ends the server."""
        out, err = client.communicate(timeout=60)
        assert (client.returncode, out.decode()) == (0, ANSWER), err
        out, err = server.communicate(timeout=60)
        assert server.returncode == 0, (out, err)


@pytest.fixture(scope="module")
def shared(wslx, mini_tar):
    s = Shared(wslx, mini_tar, 2)
    yield s
    s.close()


def test_host_and_two_machines(shared):
    """Each serves once and asks once, all over the same region."""
    shared.asks(shared.inside(0, "client"), shared.host("server"))
    shared.asks(shared.inside(1, "client"), shared.inside(0, "server"))
    shared.asks(shared.host("client"), shared.inside(1, "server"))


def test_host_and_two_machines_at_once(shared):
    """Three send each other records in lock-step; each has all of both others, in order, and says from whom."""
    names = ["first", "host", "second"]
    others = lambda name: [n for n in names if n != name]
    programs = [shared.inside(0, "records", "first", *others("first")), shared.host("records", "host", *others("host")),
                shared.inside(1, "records", "second", *others("second"))]
    for name, program in zip(names, programs):
        out, err = program.communicate(timeout=120)
        assert program.returncode == 0, (name, err)
        lines = out.decode().splitlines()
        assert len(lines) == 2000, (name, len(lines))
        for other in others(name):
            assert [x for x in lines if x.startswith(f"{other} ")] == [f"{other} {i}" for i in range(1000)], (name, other)


def test_one_process_at_a_time(shared):
    server = shared.inside(0, "server")
    wait_for("the server has attached", lambda: owner(shared, "double") is not None)
    out = shared.wslx("-d", shared.distros[0], "-e", "/usr/bin/direct", shared.region, "/etc/passwd", "x")
    assert out.returncode == 1 and "busy" in out.err.lower(), out.err
    shared.asks(shared.inside(1, "client"), server)


def test_quiesce_without_a_program(shared):
    """Machines in which nobody uses the region are at rest; who comes meanwhile waits."""
    w = shared.wslx
    wait_for("both take part", lambda: [p["kind"] for p in stat_of(shared)["participants"]][1:] == ["guest", "guest"])
    w.ok("portal", "quiesce", shared.region)
    server = shared.inside(0, "server")
    client = shared.host("client")
    wait_for("the client is there", lambda: len(stat_of(shared)["participants"]) == 4)
    w.ok("portal", "quiesce", shared.region)
    assert owner(shared, "double") is None
    w.ok("portal", "resume", shared.region)
    shared.asks(client, server)


SLEEPING = {b"WLTX": 24, b"WLRX": 8}  # in the blocks of rings: what may change all the same


def all_bytes(reader):
    """Of every arena, as docs/portal.md has it: without control areas, and what belongs to waiting."""
    reader.sync()
    out = []
    for index, arena in sorted(reader.arenas.items()):
        if arena["map"] is None:
            continue
        data = bytearray(arena["map"])
        if arena["owner"] == 0:
            for i in range(64):
                struct.pack_into("<I", data, reader.parts + 256 * i + 128, 0)
        else:
            del data[:65536]
        for magic, at in SLEEPING.items():
            block = data.find(magic)
            while block >= 0:
                if block % 64 == 0:
                    struct.pack_into("<I", data, block + at, 0)
                block = data.find(magic, block + 4)
        out.append((index, arena["life"], hashlib.sha256(data).hexdigest()))
    return out


@pytest.fixture
def exchanging(shared):
    """A program in a machine and one on the host, which exchange checked records and calls until they are told to end."""
    exe = os.path.join(BUILD, "tests/portal/portal_soak")
    put(shared.wslx, shared.distros[0], exe + "_musl", "/usr/bin/soak")
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    env = dict(os.environ, WSLX_HOME=shared.wslx.home)
    start = [lambda: subprocess.Popen([exe, shared.region, "0", "2"], env=env, **pipes),
             lambda: shared.inside(0, "soak", "1", "2", **pipes)]
    programs = [soak_portal.Participant([], i, s) for i, s in enumerate(start)]
    yield programs
    for p in programs:
        p.p.kill()
        p.p.wait(60)


def go_on(programs):
    """All of them finish another few exchanges."""
    before = [p.exchanges for p in programs]
    for p, n in zip(programs, before):
        wait_for(f"participant {p.number} goes on", lambda: p.check() or p.exchanges > n + 3)


def test_nothing_changes_while_quiesced(shared, exchanging):
    """A host process and a machine's program come to rest in the middle of their exchanges, and go on afterwards."""
    reader = client.Portal(os.path.join(shared.wslx.home, f"run/portal/{shared.region}.sock"), b"reader", attach=False)
    try:
        go_on(exchanging)
        before = all_bytes(reader)
        go_on(exchanging)
        assert all_bytes(reader) != before
        for _ in range(3):
            shared.wslx.ok("portal", "quiesce", shared.region, "--timeout", "60")
            still = all_bytes(reader)
            for _ in range(5):
                assert stat_of(shared)["region"]["quiesced"]
                assert all_bytes(reader) == still
            shared.wslx.ok("portal", "resume", shared.region)
            go_on(exchanging)
            assert all_bytes(reader) != still
    finally:
        reader.sock.close()
    for p in exchanging:
        p.end()


def test_quiesce_names_the_late_machine(shared, exchanging):
    """Its program is stopped in the middle of what it does: everybody else is at rest."""
    d = shared.distros[0]
    go_on(exchanging)
    stopped = "for p in $(ps -o pid,comm | while read p c; do test $c = soak && echo $p; done); do kill -%s $p; done"
    shared.wslx.sh(stopped % "STOP", distro=d)
    err = shared.wslx.fails("portal", "quiesce", shared.region, "--timeout", "1")
    assert f"after 1 s: the machine {d}; go on with" in err
    shared.wslx.ok("portal", "resume", shared.region)
    shared.wslx.sh(stopped % "CONT", distro=d)
    go_on(exchanging)
    for p in exchanging:
        p.end()


def stat_of(shared):
    return json.loads(shared.wslx.ok("portal", "stat", shared.region, "--json"))


def owner(shared, service):
    return next((n["owner"] for n in stat_of(shared)["names"] if n["name"] == service), None)


def test_killed_in_a_machine(shared):
    """A server that is killed is gone for everybody, its name too; the next one starts afresh."""
    server = shared.inside(0, "server")
    wait_for("the server has attached", lambda: owner(shared, "double") is not None)
    shared.wslx.sh("kill -9 $(ps -o pid,comm | while read p c; do test $c = server && echo $p; done)",
                   distro=shared.distros[0])
    server.communicate(timeout=60)
    wait_for("its name is gone", lambda: owner(shared, "double") is None)
    shared.asks(shared.host("client"), shared.inside(0, "server"))


def test_machines_killed(wslx, mini_tar):
    """In small what `make soak` does 150 times: a machine, the program in one, and one on the host are killed."""
    soak_guests.run(wslx, BUILD, mini_tar, 3, random.Random(1))


def test_direct_io(shared):
    """A guest's disk reads into a Portal page, not into a buffer to be copied from; a host process has the bytes, and
    another guest's disk writes them from the same page."""
    d, other = shared.distros[1], shared.distros[0]
    counted = lambda d: sum(v for k, v in json.loads(shared.wslx.ok("stats", d, "--json")).items() if k.endswith(".window_bytes"))
    want = shared.wslx.sh("dd if=/dev/urandom of=/root/f bs=1048576 count=1 2>/dev/null && sync && sha256sum </root/f",
                          distro=d).split()[0]
    before = counted(d), counted(other)
    with shared.inside(1, "direct", "/root/f", "disk", stdin=subprocess.PIPE) as direct:
        assert direct.stdout.readline() == b"1048576\n"
        assert counted(d) - before[0] == 1048576
        out, err = shared.host("cat", "disk").communicate(timeout=60)
        assert hashlib.sha256(out).hexdigest() == want, err
        out, err = shared.inside(0, "save", "disk", "/root/g").communicate(timeout=60)
        assert out == b"1048576\n", err
        assert counted(other) - before[1] == 1048576 and counted(d) - before[0] == 1048576
        assert shared.wslx.sh("sync && echo 3 >/proc/sys/vm/drop_caches && sha256sum </root/g", distro=other).split()[0] == want
        direct.stdin.close()
        assert direct.wait(60) == 0


def test_network_sends_from_a_region(shared, wslx):
    """A guest's socket takes a Portal object's pages (MSG_ZEROCOPY).  Over passt, which does no checksums for the guest,
    the guest's kernel then copies them after all; so how many it says it copied is not looked at."""
    d, port = shared.distros[1], free_port()
    put(wslx, d, os.path.join(BUILD, "tests/portal/portal_zerocopy_musl"), "/usr/bin/zerocopy")
    wslx.ok("config", d, f"publish={port}:7001")
    wslx("terminate", d)
    with shared.inside(1, "zerocopy", "7001", "sent", stdin=subprocess.PIPE) as z:
        assert z.stdout.readline() == b"ready\n", z.stderr.read()
        with socket.create_connection(("127.0.0.1", port), 60) as c, c.makefile("rb") as f:
            c.sendall(b"x")  # Debian 12's passt acknowledges the server's SYN only with data
            got = f.read(1 << 20)
        assert re.fullmatch(rb"\d+ of [1-9]\d*\n", z.stdout.readline())
        out, err = shared.host("cat", "sent").communicate(timeout=60)
        assert out == got, err
        z.stdin.close()
        assert z.wait(60) == 0
    wslx.ok("config", d, "publish=")


@pytest.fixture
def scribbled(shared):
    """A region of its own for shared's first machine, and a program there that writes without end."""
    w, region, d = shared.wslx, f"s{os.urandom(4).hex()}", shared.distros[0]
    exe = os.path.join(BUILD, "tests/portal/portal_scribble")
    put(w, d, exe + "_musl", "/usr/bin/scribble")
    w.ok("portal", "create", region)
    w.ok("portal", "grant", region, d, "--size", "4M")
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with w.popen("-d", d, "-e", "/usr/bin/scribble", region, "write", **pipes) as writer, \
            subprocess.Popen([exe, region, "watch"], env=dict(os.environ, WSLX_HOME=w.home), **pipes) as watcher:
        yield region, d, writer, watcher
        writer.kill()
        watcher.kill()
    w("portal", "revoke", region, d)
    w.ok("portal", "remove", region)


def checksum(watcher):
    watcher.stdin.write(b"\n")
    watcher.stdin.flush()
    return watcher.stdout.readline()


def test_revoked_while_it_writes(shared, scribbled):
    """The program in the machine writes on, into nothing; what the host sees does not change any more."""
    region, d, writer, watcher = scribbled
    pid = shared.wslx.vmm_pid(d)
    assert writer.stdout.readline() and (before := checksum(watcher))
    wait_for("the host sees it write", lambda: checksum(watcher) != before)
    shared.wslx.ok("portal", "revoke", region, d)
    last = checksum(watcher)
    for _ in range(20):
        for _ in range(3):
            assert writer.stdout.readline(), writer.stderr.read()
        assert checksum(watcher) == last
    writer.stdin.close()
    assert writer.wait(60) == 0, writer.stderr.read()
    assert checksum(watcher) == last
    assert shared.wslx.vmm_pid(d) == pid
    # The machine has its other region, and everybody's bytes in it, as before.
    shared.asks(shared.inside(0, "client"), shared.host("server"))


def test_no_drivers_without_a_grant(shared, mini, wslx):
    with_window = wslx.sh("cat /proc/modules; ls /dev", distro=shared.distros[0])
    assert "virtio_pmem" in with_window and "dax0.0" in with_window
    without = wslx.sh("cat /proc/modules; ls /dev", distro=mini)
    assert "pmem" not in without and "dax" not in without


def test_default_user_has_the_device(shared, wslx):
    d = shared.distros[1]
    wslx.ok("config", d, "user=user")
    wslx("terminate", d)
    assert "1000" in wslx.ok("-d", d, "-e", "/bin/sh", "-c", "stat -c %u:%a /dev/dax0.0")
    shared.asks(shared.inside(1, "client"), shared.host("server"))


def test_grant_made_read_only_while_it_runs(shared, wslx):
    """The machine cannot write any more when the command returns; the settings alone do not take anything away."""
    d = shared.distros[0]
    wslx.fails("config", d, "portal=", needle="portal revoke")
    with shared.inside(0, "server") as server:
        wait_for("the server has attached", lambda: owner(shared, "double") is not None)
        assert wslx.ok("portal", "grant", shared.region, d, "--read-only") == ""
        assert owner(shared, "double") is None
        server.communicate(timeout=60)
    guests = lambda: [p["segments"] for p in stat_of(shared)["participants"] if p["kind"] == "guest" and p["name"] == d]
    wait_for("it takes part again", lambda: guests() == [1])
    wslx.ok("portal", "revoke", shared.region, d)
    assert guests() == []
    wslx.ok("portal", "grant", shared.region, d, "--size", "16M")
    shared.asks(shared.host("client"), shared.inside(0, "server"))
