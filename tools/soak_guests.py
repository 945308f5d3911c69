"""Portal's kill storm over machines: programs in machines and one on the host exchange checked records and calls over one
region; one of them at a time is killed at a random moment and started again: a machine, in the middle of its boot or of an
exchange, the program in a machine, which then begins again in the same running machine, or the program on the host, in turn.

What is killed of a machine is the supervisor, the device server or VMM child, or QEMU, or all of it by `terminate --force`.
The others must go on undisturbed, and the broker may keep nothing of the dead.

Used by tools/soak.py, and in small by the end-to-end tests.
"""

import os
import signal
import subprocess
import time

from conftest import alive, children_of, machine_logs
from soak_portal import Failed, Kill, Participant, at_rest, check_rest, memory_kb, storm

# The window is small, so that places in it are used again and again.
WINDOW = "64M"
PROGRAM, HOST, MACHINE = VICTIMS = "a machine's program", "the host's program", "machine"
# busybox has no pkill -x.
KILL = "for p in $(ps -o pid,comm | while read p c; do test $c = soak && echo $p; done); do kill -9 $p; done"


class Machine(Participant):
    """A program in a machine.  Its lines come through `wslx`.  pid: of the machine that it is to find running, or None."""

    def __init__(self, w, distro, region, number, total, rng, pid):
        self.w, self.distro, self.rng, self.pid, self.killed = w, distro, rng, pid, "nothing"
        super().__init__([], number, lambda: w.popen("-d", distro, "-e", "/usr/bin/soak", region, str(number), str(total),
                                                     stdin=subprocess.PIPE, text=True))

    def victims(self):
        pid = self.w.vmm_pid(self.distro)
        # passt is not one of them: a machine outlives its passt, and is given another one.
        return [p for p in [pid, *children_of(pid)] if not comm(p).startswith("passt")] if pid else []

    def check(self):
        super().check()
        if self.pid and self.exchanges:
            if self.w.vmm_pid(self.distro) != self.pid:
                raise Failed(f"{self.distro} did not outlive its program")
            self.pid = None

    def kill(self, how):
        self.killed = how
        self.kill_program() if how == PROGRAM else self.kill_machine()

    def kill_program(self):
        self.check()
        self.pid = self.w.vmm_pid(self.distro)
        self.w.sh(KILL, distro=self.distro)
        self.p.wait(60)
        err = self.p.stderr.read().strip()
        self.close()
        if err or self.p.returncode != 128 + signal.SIGKILL:
            raise Failed(f"the program in {self.distro} was killed, and ended with {self.p.returncode}: {err}")

    def kill_machine(self):
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
        self.pid = None


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return "gone"


def plan_of(rng, machines):
    """Each kind of victim in its turn, at a moment of a machine's life in seconds."""
    def plan(n):
        how = VICTIMS[n % len(VICTIMS)]
        victim = machines if how == HOST else rng.randrange(machines)
        if how == MACHINE and rng.random() < 0.3:
            return Kill(victim, rng.random() * 4, False, how=how)
        return Kill(victim, rng.random(), True, how=how)

    return plan


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
        last_of = [None] * machines

        def make(i):
            if i == machines:
                return Participant([host, sock, str(i), str(machines + 1)], i)
            last_of[i] = Machine(w, distros[i], region, i, machines + 1, rng, last_of[i] and last_of[i].pid)
            return last_of[i]

        def note(kill, p):
            what = kill.how if kill.how == HOST else p.killed
            killed[what] = killed.get(what, 0) + 1

        def one_storm(n):
            last_of[:] = [None] * machines
            got = storm(make, machines + 1, n, rng, say, plan=plan_of(rng, machines), note=note)
            for d in distros:
                w.ok("terminate", d)
            return got

        # Once around first: what the broker has then, it may have.
        one_storm(len(VICTIMS))
        killed.clear()
        first = at_rest(w, region)
        before = memory_kb(first["pid"])
        exchanges = one_storm(kills)
        last = at_rest(w, region)
        after = check_rest(first, last, before, kills)
        what = ", ".join(f"{n} times {k}" for k, n in sorted(killed.items()))
        say(f"portal: {kills} killed ({what}), {exchanges} exchanges, nobody disturbed, nothing left; "
            f"broker {before} -> {after} KiB, {last['descriptors']} descriptors")
        return exchanges
    except Failed as e:
        raise Failed(f"{e}\n{w('portal', 'stat', region).out}\n{machine_logs(w.home)}") from None
    finally:
        for d in distros:
            w("terminate", d, "--force")
            w("unregister", d)
        w("portal", "remove", region)
