#!/usr/bin/python3
"""The examples: a broker, a server, a client, what each says when something is missing or taken away, and that each is
short.  usage: example.py BROKER SERVER CLIENT RECORDS [CAT WSLX]"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

LIMIT = 60
LINES, WIDTH = 40, 120
PIPE, EACCES, ENOENT, ETIMEDOUT = ("it was revoked (EPIPE)", "it was revoked, or not granted to this user (EACCES)",
                                   "there is no such region, name or file (ENOENT)", "in time (ETIMEDOUT)")
broker_path, server_path, client_path, records_path, *more = sys.argv[1:]


def short(folder):
    """What a side of an exchange takes: all of it fits on a screen."""
    files = [path for path in folder.iterdir() if path.suffix in (".c", ".h")]
    known = {"broker.c", "server.c", "client.c", "records.c", "cat.c", "direct.c", "save.c"}
    assert known <= {path.name for path in files}, files
    for path in files:
        lines = path.read_text().splitlines()
        assert len(lines) <= LINES, f"{path}: {len(lines)} lines, which were to be {LINES} at most"
        assert max(len(line.expandtabs()) for line in lines) <= WIDTH, f"{path}: a line is longer than {WIDTH}"


def start(*argv):
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def says(process, call, meaning):
    """It ends by itself: with a status of 1, and one line of which call failed, and why."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{process.args} goes on for {LIMIT} s, and was to say '{call}: ... {meaning}'")
    assert (process.returncode, out) == (1, ""), (process.returncode, out, err)
    assert err.startswith(call + ": ") and err.endswith(meaning + "\n") and err.count("\n") == 1, err


def serves(server, client):
    out = subprocess.run([client_path, client], stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True).stdout
    assert out == "42\n1999998\n", out
    assert server.wait(timeout=LIMIT) == 0, server.stderr.read()


def exchanged():
    """Each has all records of all others, in order, whoever comes first."""
    names = ["one", "two", "three", "four"]
    running = {name: start(records_path, "example", name, *(n for n in names if n != name)) for name in names}
    for name, process in running.items():
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, (name, err)
        lines = out.splitlines()
        assert len(lines) == 1000 * (len(names) - 1), (name, len(lines))
        for other in set(names) - {name}:
            got = [line for line in lines if line.startswith(f"{other} ")]
            assert got == [f"{other} {i}" for i in range(1000)], (name, other)


def revoked(cat, wslx):
    def w(*argv):
        return subprocess.run([wslx, "portal", *argv], stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True).stdout

    def serving():
        """A server that has its name, and its number: there is something to take away from it."""
        server = start(server_path, "example")
        while True:
            stat = json.loads(w("stat", "example", "--json"))
            if stat["names"]:
                return server, stat["names"][0]["owner"]
            assert server.poll() is None, server.stderr.read()

    w("create", "example")
    try:
        says(start(cat, "example", "nothing"), "cat: portal_wait_for", ETIMEDOUT)
        server, number = serving()
        w("revoke", "example", "--participant", str(number))
        says(server, "server: portal_rpc_next", EACCES)
        server, _ = serving()
    finally:
        w("remove", "example")
    says(server, "server: portal_rpc_next", PIPE)


short(pathlib.Path(__file__).parents[2] / "examples/portal")
with tempfile.TemporaryDirectory(prefix="portal-example-") as tmp:
    # Where a region of that name is looked for.
    os.makedirs(os.path.join(tmp, "run/portal"), mode=0o700)
    os.environ["WSLX_HOME"] = tmp
    sock = os.path.join(tmp, "run/portal/example.sock")
    for name, path in (("server", server_path), ("client", client_path)):
        says(start(path, "example"), f"{name}: portal_attach", ENOENT)
    says(start(broker_path, os.path.join(tmp, "no/such/folder")), "broker: portal_host_create", ENOENT)
    broker = start(broker_path, sock)
    assert broker.stdout.readline() == "ready\n"
    try:
        serves(start(server_path, "example"), "example")
        exchanged()
        says(start(client_path, "example"), "client: portal_rpc_connect to 'double'", ETIMEDOUT)
    finally:
        broker.stdin.close()
        assert broker.wait(timeout=LIMIT) == 0
    if more:
        revoked(*more)
