"""Portal's kill storm over machines: programs in machines and one on the host exchange checked records and calls over one
region; one machine at a time is killed at a random moment, in the middle of its boot or of an exchange, and started again.

What is killed is the supervisor, the device server or VMM child, or QEMU, or all of it by `terminate --force`.  The
others must go on undisturbed, and the broker may keep nothing of the dead.

Used by tools/soak.py, and in small by the end-to-end tests.
"""

import os
import signal
import subprocess
import time

from conftest import alive, children_of, machine_logs
from soak_portal import Failed, Participant, at_rest, check_rest, memory_kb, storm

# The window is small, so that places in it are used again and again.
WINDOW = "64M"


class Machine(Participant):
    """A program in a machine.  Its lines come through `wslx`."""

    def __init__(self, w, distro, region, number, total, rng):
        self.w, self.distro, self.rng, self.killed = w, distro, rng, "nothing"
        super().__init__([], number, lambda: w.popen("-d", distro, "-e", "/usr/bin/soak", region, str(number), str(total),
                                                     stdin=subprocess.PIPE, text=True))

    def victims(self):
        pid = self.w.vmm_pid(self.distro)
        # passt is not one of them: a machine outlives its passt, and is given another one.
        return [p for p in [pid, *children_of(pid)] if not comm(p).startswith("passt")] if pid else []

    def kill(self):
        victims = self.victims()
        self.check()
        victim = self.rng.choice([*victims, 0])
        self.killed = "all of it" if not victim else "supervisor" if victim == victims[0] else comm(victim)
        if victim:
            try:
                os.kill(victim, signal.SIGKILL)
            except OSError:
                self.killed = "nothing"
        # wslx starts a machine again that went away before its command began: then that one ends, too.
        again = 0 if not victim or self.killed == "nothing" else time.monotonic() + 2
        end = time.monotonic() + 60
        while self.p.poll() is None or any(alive(v) for v in victims):
            if time.monotonic() > end:
                raise Failed(f"{self.killed} of {self.distro} was killed, and there is left: "
                             f"{[comm(v) for v in victims if alive(v)] or 'wslx'}")
            if time.monotonic() > again:
                self.w.ok("terminate", self.distro, "--force")
                again = time.monotonic() + 1
            time.sleep(0.02)
        # A guest that has lost its supervisor is dead to the others, who use their memory for something else, and runs
        # on for a moment: what its program says then is no complaint.
        self.close()


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return "gone"


def moment(rng):
    """Of a machine's life in seconds, and whether its program has to have begun."""
    return (rng.random() * 4, False) if rng.random() < 0.3 else (rng.random(), True)


def prepare(w, build, tar, region, number):
    distros = [f"soak{i}" for i in range(number)]
    for d in distros:
        w.ok("import", d, tar, "--kernel", "cloud", "--size", "1G")
        w.ok("config", d, f"portal-window={WINDOW}")
        w.ok("portal", "grant", region, d)
        with open(os.path.join(build, "tests/portal/portal_soak_musl"), "rb") as f:
            w.ok("-d", d, "-e", "/bin/sh", "-c", "cat >/usr/bin/soak && chmod 755 /usr/bin/soak && sync", stdin=f)
    return distros


def run(w, build, tar, kills, rng, machines=2, say=lambda line: None):
    """w: a tests/e2e Wslx.  Raises Failed."""
    region = "soak"
    w.ok("portal", "create", region)
    distros = []
    try:
        distros = prepare(w, build, tar, region, machines)
        sock = os.path.join(w.home, f"run/portal/{region}.sock")
        host = os.path.join(build, "tests/portal/portal_soak")
        killed = {}

        def make(i):
            if i == machines:
                return Participant([host, sock, str(i), str(machines + 1)], i)
            return Machine(w, distros[i], region, i, machines + 1, rng)

        def note(m):
            killed[m.killed] = killed.get(m.killed, 0) + 1

        def one_storm(n):
            got = storm(make, machines + 1, n, rng, say, victims=machines, moment=moment, note=note)
            for d in distros:
                w.ok("terminate", d)
            return got

        # Once around first: what the broker has then, it may have.
        one_storm(1)
        killed.clear()
        first = at_rest(w, region)
        before = memory_kb(first["pid"])
        exchanges = one_storm(kills)
        last = at_rest(w, region)
        after = check_rest(first, last, before, kills)
        what = ", ".join(f"{n} times {k}" for k, n in sorted(killed.items()))
        say(f"portal: {kills} machines killed ({what}), {exchanges} exchanges, nobody disturbed, nothing left; "
            f"broker {before} -> {after} KiB, {last['descriptors']} descriptors")
        return exchanges
    except Failed as e:
        raise Failed(f"{e}\n{w('portal', 'stat', region).out}\n{machine_logs(w.home)}") from None
    finally:
        for d in distros:
            w("terminate", d, "--force")
            w("unregister", d)
        w("portal", "remove", region)
