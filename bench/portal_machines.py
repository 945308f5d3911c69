"""Portal between host and machines: each figure as a ratio to the same thing between two host processes, to memcpy in the
same place, or to vsock of the same machine, all taken in the same run (bench/portal_across.c).

In a machine, memcpy is between a program's ordinary pages of 4 KiB; the window's are of 2 MiB, which is why bulk is faster
there than memcpy where translating addresses is emulated.

Used by bench/portal.py; as a program it prints "PLACES NAME VALUE" lines, which is how figures come out of the lab.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tools"))
import children  # noqa: E402

PORT = "7000"
REGION = "bench"
# What bench/portal_across.c asks for; in the window of a machine, two of them have to be.
GRANT = "288M"
WINDOW = "1G"
IN_FLIGHT = (1, 4, 16, 64)
MIB = (1, 16, 256)
FIGURES = ["trip.p50", "record.p50", "asleep.p50", "command.p50"]
FIGURES += [f"rpc.{k}.{q}" for k in IN_FLIGHT for q in ("each", "p50", "p99", "p999")]
FIGURES += [f"{what}.{n}.p50" for n in MIB for what in ("bulk", "memcpy")]
# Who asks whom.
PLACES = [("host-host", None, None), ("host-guest", None, 0), ("guest-host", 0, None), ("guest-guest", 0, 1)]


class Incomplete(Exception):
    pass


class Bench:
    """A region, two machines that were granted it, and the program everywhere."""

    def __init__(self, build, engine):
        os.environ.update(WSLX_E2E_ENGINE=engine, WSLX_E2E_BUILD=build)
        sys.path.insert(0, os.path.join(TOP, "tests/e2e"))
        import conftest

        self.exe = os.path.join(build, "bench/portal_across")
        home = tempfile.mkdtemp(prefix="wslx-bench-", dir="/scratch" if os.environ.get("WSLX_IN_LAB") else None)
        os.makedirs(os.path.join(home, "data"))
        shutil.copytree(os.path.join(build, "e2e/home/data/kernels"), os.path.join(home, "data/kernels"), symlinks=True)
        self.w, self.distros = conftest.Wslx(home), ["one", "two"]
        self.env = dict(os.environ, WSLX_HOME=home)
        tar = conftest.make_mini_tar(pathlib.Path(home))
        self.w.ok("portal", "create", REGION)
        for d in self.distros:
            self.w.ok("import", d, tar, "--kernel", "cloud", "--size", "1G")
            self.w.ok("config", d, f"portal-window={WINDOW}")
            self.w.ok("portal", "grant", REGION, d, "--size", GRANT)
            with open(self.exe + "_musl", "rb") as f:
                self.w.ok("-d", d, "-e", "/bin/sh", "-c", "cat >/usr/bin/across && chmod 755 /usr/bin/across", stdin=f)

    def close(self):
        self.w("shutdown", "--force")
        self.w("portal", "remove", REGION)
        shutil.rmtree(self.w.home, ignore_errors=True)

    def start(self, place, *argv):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if place is None:
            return subprocess.Popen([self.exe, *argv], env=self.env, **pipes)
        return self.w.popen("-d", self.distros[place], "-e", "/usr/bin/across", *argv, stderr=None, **pipes)

    def ask(self, client, server, trips):
        with self.start(server, "serve", REGION) as s:
            assert s.stdout.readline() == "ready\n"
            with self.start(client, "ask", REGION, str(trips)) as c:
                out, _ = c.communicate(timeout=900)
            s.communicate(timeout=60)
        assert c.returncode == 0 and s.returncode == 0, (c.returncode, s.returncode)
        return out

    def vsock(self, trips):
        with self.start(0, "vsock-serve", PORT) as s:
            assert s.stdout.readline() == "ready\n"
            sock = os.path.join(self.w.home, "run", self.distros[0], "vsock.sock")
            out = subprocess.run([self.exe, "vsock-ask", sock, PORT, str(trips)], stdout=subprocess.PIPE, text=True,
                                 check=True, timeout=900).stdout
            s.kill()
        return out


def run(build, engine, trips):
    """Prints as it goes."""
    b = Bench(build, engine)
    try:
        for name, client, server in PLACES:
            for line in b.ask(client, server, trips).splitlines():
                print(name, line, flush=True)
        for line in b.vsock(trips // 4).splitlines():
            print("vsock", line, flush=True)
    finally:
        b.close()


def smoke(broker, across):
    """Everything between two host processes once, at a broker that listens where one of `wslx portal create` would."""
    with tempfile.TemporaryDirectory(prefix="wslx-bench-") as home:
        os.makedirs(os.path.join(home, "run/portal"), mode=0o700)
        env = dict(os.environ, WSLX_HOME=home)
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with subprocess.Popen([broker, os.path.join(home, f"run/portal/{REGION}.sock")], **pipes) as b:
            assert b.stdout.readline() == "ready\n"
            with subprocess.Popen([across, "serve", REGION], env=env, **pipes) as s:
                assert s.stdout.readline() == "ready\n"
                out = subprocess.run([across, "ask", REGION, "2"], env=env, stdout=subprocess.PIPE, text=True, check=True,
                                     timeout=120).stdout
                s.communicate(timeout=60)
            b.communicate(timeout=60)
    figures = dict(line.split() for line in out.splitlines())
    assert set(FIGURES) <= set(figures), set(FIGURES) - set(figures)
    m = {(place, name): float(figures[name]) for place, _, _ in PLACES for name in FIGURES}
    m.update({("vsock", name): 1.0 for name in ("trip.p50", "asleep.p50")})
    assert list(rows("host", m)) and list(charts("host", m))


def prepare(build):
    if not os.path.exists(os.path.join(build, "build.ninja")):
        subprocess.run(["meson", "setup", build], cwd=TOP, env=dict(os.environ, CC="gcc"), check=True,
                       stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", build, "--quiet", "all", "bench/portal_across", "bench/portal_across_musl"], check=True)
    subprocess.run([os.path.join(TOP, "tests/e2e/prepare.sh"), build], check=True)


def measure(build, part, trips):
    """Runs this file for part tcg here, for part lab in the lab.  Returns {(places, name): value}."""
    prepare(build)
    if part == "lab":
        trips = max(1, trips // 4)
    argv = ["/usr/bin/python3", os.path.abspath(__file__), build, "tcg" if part == "tcg" else "kvm", str(trips)]
    if part == "lab":
        argv = [os.path.join(TOP, "lab/lab.py"), "--cpus", "2", "--timeout", "1500", " ".join(argv)]
    out = subprocess.run(children.tied(argv), stdout=subprocess.PIPE, text=True, check=True, timeout=1800).stdout
    got = {}
    for line in out.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] in [n for n, _, _ in PLACES] + ["vsock"]:
            got[words[0], words[1]] = float(words[2])
    missing = [f"{p} {n}" for p, _, _ in PLACES for n in FIGURES if (p, n) not in got]
    missing += [f"vsock {n}" for n in ("trip.p50", "asleep.p50") if ("vsock", n) not in got]
    if missing:
        raise Incomplete(f"missing: {', '.join(missing)}")
    return got


def rows(part, m):
    """(what, ours, peer, ratio) of a measurement."""
    us = lambda v: f"{v / 1000:.1f} us"
    for name, what in [("trip.p50", "round trip"), ("record.p50", "a 64-byte record"), ("asleep.p50", "round trip, both asleep"),
                       ("command.p50", "command stream, 64 KiB of data each")] + [(f"rpc.{k}.each", f"RPC, {k} in flight: a call")
                                                                                  for k in IN_FLIGHT]:
        for place, _, _ in PLACES[1:]:
            ours, peer = m[place, name], m["host-host", name]
            yield f"{part}: {what}, {place}", us(ours), f"{us(peer)} host-host", ours / peer
    for k in IN_FLIGHT:
        three = lambda place: " / ".join(f"{m[place, f'rpc.{k}.{q}'] / 1000:.1f}" for q in ("p50", "p99", "p999"))
        for place, _, _ in PLACES[1:]:
            yield (f"{part}: RPC, {k} in flight: p50 / p99 / p99.9, {place}", f"{three(place)} us", f"{three('host-host')} us host-host",
                   m[place, f"rpc.{k}.p50"] / m["host-host", f"rpc.{k}.p50"])
    for name, what in (("trip.p50", "round trip"), ("asleep.p50", "round trip, both asleep")):
        ours, peer = m["host-guest", name], m["vsock", name]
        yield f"{part}: {what}, host-guest", us(ours), f"{us(peer)} vsock", ours / peer
    for n in MIB:
        for place, _, _ in PLACES:
            ours, peer = m[place, f"bulk.{n}.p50"], m[place, f"memcpy.{n}.p50"]
            yield f"{part}: bulk, {n} MiB, {place}", f"{ours:.2f} GB/s", f"{peer:.2f} GB/s memcpy there", ours / peer


def charts(part, m):
    """For bench/portal.py's plot."""
    for name, what in (("trip.p50", "round trip"), ("asleep.p50", "round trip, both asleep"), ("rpc.1.p50", "RPC"),
                       ("rpc.64.each", "RPC, a call of 64 in flight"), ("command.p50", "a command and its 64 KiB")):
        bars = [(f"portal {place}", m[place, name] / 1000) for place, _, _ in PLACES]
        if ("vsock", name) in m:
            bars.append(("vsock host-guest", m["vsock", name] / 1000))
        yield f"{part}: {what}", bars, "us"
    yield f"{part}: bulk, {MIB[-1]} MiB", [(f"{name} {place}", m[place, f"{key}.{MIB[-1]}.p50"]) for place, _, _ in PLACES
                                        for name, key in (("memcpy", "memcpy"), ("portal", "bulk"))], "GB/s"


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: bench/portal_machines.py BUILD tcg|kvm TRIPS")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the machines are stopped
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
