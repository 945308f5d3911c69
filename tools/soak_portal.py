"""Portal's kill storm: processes that exchange checked records and calls over one region, one killed at a time at a random
moment and started again.  The others must go on undisturbed, and in the end nothing may be left: no participant, arena,
name, descriptor or memory of the dead.

At some of the kills one is stopped (SIGSTOP) for up to a second before: the victim, or another, which goes on when the one
that was killed has begun again and got through to somebody.  Who is in an exchange with the stopped one waits for it.

Used by tools/soak.py, and in small by the end-to-end tests.  tools/soak_guests.py does the same to machines.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
from typing import NamedTuple

# No exchange takes as long on any host.
STUCK = 90
# Of the kills, those with one stopped.
STOPS = 0.2
# What a broker may grow by, in all, over a storm: its heap's own doing.
GROWTH_KB = 1024


class Failed(Exception):
    pass


class Kill(NamedTuple):
    victim: int
    after: float        # seconds
    begun: bool         # and not before it has begun
    held: int = -1      # who is stopped before; -1: nobody
    how: str = "process"


class Participant:
    """A process.  Its lines are read by a thread, which notes when the last one came."""

    def __init__(self, argv, number, start=None):
        self.number = number
        self.p = start() if start else subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                        stderr=subprocess.PIPE, text=True)
        self.exchanges, self.last = 0, time.monotonic()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for _ in self.p.stdout:
            self.exchanges += 1
            self.last = time.monotonic()

    def check(self):
        if self.p.poll() is not None:
            raise Failed(f"participant {self.number} ended with {self.p.returncode}: {self.p.stderr.read().strip()}")
        if time.monotonic() - self.last > STUCK:
            raise Failed(f"participant {self.number} is stuck")

    def stop(self):
        os.kill(self.p.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.p.pid, signal.SIGCONT)

    def kill(self, how):
        os.kill(self.p.pid, signal.SIGKILL)
        self.p.wait(60)
        err = self.p.stderr.read().strip()
        self.close()
        if err:
            raise Failed(err)

    def end(self):
        """In order, when it has finished what it is doing."""
        self.p.stdin.close()
        try:
            code = self.p.wait(STUCK)
        except subprocess.TimeoutExpired:
            raise Failed(f"participant {self.number} does not end")
        if code:
            raise Failed(f"participant {self.number} ended with {code}: {self.p.stderr.read().strip()}")
        self.close()

    def close(self):
        self.reader.join(60)
        for f in (self.p.stdin, self.p.stdout, self.p.stderr):
            f.close()


def memory_kb(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"^VmRSS:\s+(\d+)", f.read(), re.M)[1])


def info(w, region):
    return json.loads(w.ok("portal", "stat", region, "--json"))["region"]


def at_rest(w, region):
    """What the broker has when everybody has left."""
    end = time.monotonic() + 60
    while True:
        i = info(w, region)
        if i["participants"] == 0 and i["arenas"] == 1:
            return i
        if time.monotonic() > end:
            raise Failed(f"of the dead there is left: {i}")
        time.sleep(0.05)


def plan_of(rng, number):
    """After a moment, and, every other time, not before the victim has begun."""
    victim = rng.randrange(number)
    held = -1
    if rng.random() < STOPS:
        held = victim if rng.random() < 0.5 else (victim + 1 + rng.randrange(number - 1)) % number
    return Kill(victim, rng.random() * 0.1, rng.random() < 0.5, held)


def watch(now, seconds, done=lambda: True):
    end = time.monotonic() + seconds
    while time.monotonic() < end or not done():
        time.sleep(0.002)
        for p in now:
            p.check()


def strike(now, kill, make, rng):
    """Returns what the victim had exchanged."""
    i, held = kill.victim, kill.held
    if held >= 0:
        now[held].stop()
        watch(now, rng.random())
    now[i].kill(kill.how)
    exchanges = now[i].exchanges
    now[i] = make(i)
    if held not in (-1, i):
        watch(now, 0, lambda: now[i].exchanges)
        before = now[held].exchanges
        now[held].go_on()
        watch(now, 0, lambda: now[held].exchanges > before)
    return exchanges


def storm(make, number, kills, rng, say, plan=None, note=lambda kill, p: None):
    """Kills one of `number` participants after another, as plan(n) says.  Returns the exchanges of all."""
    exchanges = 0
    now = [make(i) for i in range(number)]
    try:
        for n in range(kills):
            kill = plan(n) if plan else plan_of(rng, number)
            victim = now[kill.victim]
            watch(now, kill.after, lambda: victim.exchanges or not kill.begun)
            exchanges += strike(now, kill, make, rng)
            note(kill, victim)
            if n % 100 == 99:
                say(f"portal: {n + 1} of {kills} killed, {exchanges} exchanges")
        # The survivors and the last ones started still get through to each other.
        for p in now:
            p.exchanges = 0
        while any(p.exchanges < 3 for p in now):
            for p in now:
                p.check()
            time.sleep(0.02)
        for p in now:
            p.end()
            exchanges += p.exchanges
        return exchanges
    except BaseException:
        for p in now:
            p.p.kill()
            p.p.wait()
        raise


def check_rest(first, last, before, kills):
    """Has the broker at rest more than it had, before so many were killed?  Returns its memory."""
    after = memory_kb(last["pid"])
    for key in ("pid", "segments_used", "arenas", "names", "descriptors"):
        if last[key] != first[key]:
            raise Failed(f"{key} was {first[key]} and is {last[key]} after {kills} kills")
    if last["bytes"] > first["bytes"] + 65536 or after > before + GROWTH_KB:
        raise Failed(f"the region's memory was {first['bytes']} and is {last['bytes']} bytes, "
                     f"the broker's {before} and {after} KiB")
    return after


def run(w, build, kills, rng, number=4, say=lambda line: None):
    """w: a tests/e2e Wslx.  Raises Failed."""
    region = "soak"
    exe = os.path.join(build, "tests/portal/portal_soak")
    sock = os.path.join(w.home, f"run/portal/{region}.sock")
    w.ok("portal", "create", region)
    try:
        def make(i):
            return Participant([exe, sock, str(i), str(number)], i)

        # Once around first: what the broker has then, it may have.
        storm(make, number, min(kills, 20), rng, say)
        first = at_rest(w, region)
        before = memory_kb(first["pid"])
        done = []
        exchanges = storm(make, number, kills, rng, say, note=lambda kill, p: done.append(kill))
        last = at_rest(w, region)
        after = check_rest(first, last, before, kills)
        # Some are killed before they have said hello; in the end everybody leaves in order.
        joined, died = (last[k] - first[k] for k in ("attached", "died"))
        if died != joined - number or died > kills:
            raise Failed(f"{kills} were killed, the broker saw {joined} join and {died} die")
        stopped = sum(k.held == k.victim for k in done)
        while_stopped = sum(k.held not in (-1, k.victim) for k in done)
        say(f"portal: {kills} killed ({stopped} of them stopped, {while_stopped} while another was), "
            f"{exchanges} exchanges, nobody disturbed, nothing left; "
            f"broker {before} -> {after} KiB, {last['descriptors']} descriptors")
        return exchanges
    finally:
        w("portal", "remove", region)
