"""The benchmarks' own machinery: runs without a result are repeated, and leave nothing behind."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "bench"))
import guest_work  # noqa: E402
from tries import Failed, Side, alternate  # noqa: E402

LOCAL = "127.0.0.1"


def free_ports():
    """The first of two neighbours that nobody listens at."""
    for port in range(20000 + os.getpid() % 10000, 60000, 2):
        try:
            for p in (port, port + 1):
                socket.create_server((LOCAL, p)).close()
            return port
        except OSError:
            pass
    raise AssertionError("no port is free")


def failing(*outcomes):
    it = iter(outcomes)

    def run():
        r = next(it)
        if isinstance(r, Exception):
            raise r
        return r
    return run


def test_a_failed_run_is_repeated_and_said():
    ours = Side("WSLX", failing((1,), (2,), (3,)))
    theirs = Side("the peer", failing((4,), Failed("no answer in 60 s"), (5,), Failed("no answer in 60 s"), (6,)))
    alternate(ours, theirs, 3)
    assert ours.median(0) == 2 and theirs.median(0) == 5
    assert list(ours.notes()) == []
    assert list(theirs.notes()) == ["2 runs of the peer were repeated: no answer in 60 s (2 times)"]
    assert not theirs.gave_up()


def test_one_that_never_works_gives_up():
    side = Side("the peer", failing(*[Failed("no answer in 60 s", "the console\nPANIC")] * 3), repeats=2)
    alternate(Side("WSLX", lambda: (1,)), side, 3)
    assert side.gave_up() and side.median(0) is None
    assert list(side.notes()) == ["the peer gave up after 3 runs without a result: no answer in 60 s (3 times)",
                                  "the console", "PANIC"]


def test_a_mistake_in_the_benchmark_is_not_repeated():
    side = Side("WSLX", failing(KeyError("read"), (1,)))
    with pytest.raises(KeyError):
        side.once()


@pytest.mark.parametrize("connected", [False, True])
def test_the_peers_ports_are_free_after_a_run_that_never_connected_or_never_ended(connected):
    port = free_ports()
    before = threading.active_count()
    for _ in range(3):
        with guest_work.Peer(LOCAL, port):
            if connected:
                clients = [socket.create_connection((LOCAL, port + i)) for i in range(2)]
        assert threading.active_count() == before
        if connected:
            for c in clients:
                c.close()


def test_the_peer_takes_and_gives_what_the_guest_asks_for():
    port = free_ports()
    with guest_work.Peer(LOCAL, port):
        with socket.create_connection((LOCAL, port)) as c:
            c.sendall(bytes(guest_work.NET_MIB << 20))
            assert c.recv(1) == b""
        got = 0
        with socket.create_connection((LOCAL, port + 1)) as c:
            while d := c.recv(1 << 20):
                got += len(d)
        assert got == guest_work.NET_MIB << 20


def run_script(script, limit):
    with guest_work.process(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as proc:
        try:
            return guest_work.read_results(proc, limit)
        finally:
            run_script.pid = proc.pid


def test_a_guest_that_hangs_is_given_up_and_gone():
    start = time.monotonic()
    with pytest.raises(Failed, match="no answer in 3 s") as e:
        run_script("echo RESULT read 1.5; while :; do echo rcu: stall; sleep 0.1; done", 3)
    assert 3 <= time.monotonic() - start < 60
    assert "rcu: stall" in e.value.detail
    assert not os.path.exists(f"/proc/{run_script.pid}")


def test_a_guest_that_is_only_slow_is_waited_for():
    text = run_script("for n in send receive; do sleep 2; echo RESULT $n 1.5; done; sleep 2; echo DONE", 5)
    assert guest_work.results(text, "net") == {"send": 1.5, "receive": 1.5}


def test_a_guest_that_dies_early_has_no_result():
    for text in ("RESULT send 1.5\nPANIC\n", "DONE\n"):
        with pytest.raises(Failed, match="ended early"):
            guest_work.results(text, "net")
