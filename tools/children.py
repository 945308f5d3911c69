"""Children that do not outlive who started them.

Each is the leader of a session and process group of its own.  A signal that ends the starter (SIGTERM, SIGINT, SIGHUP) ends
the groups: SIGTERM, so that they can tidy up, and SIGKILL for what is left after GRACE seconds.  If the starter is killed so
that it cannot do anything, the kernel sends its children SIGTERM (PR_SET_PDEATHSIG, by setpriv of util-linux); that reaches the
leaders only, who have to see to their own children.
"""

import fcntl
import os
import select
import signal
import subprocess

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 20


def tied(argv, sig="TERM"):
    """The command, which gets this signal when the thread that starts it is gone."""
    return ["setpriv", "--pdeathsig", sig, "--", *argv]


class Ended(SystemExit):
    """A signal wants this program to end.  No Exception, so that nobody takes it for a failure; threads end by it silently."""


class Children:
    """For programs with several threads: a signal is noticed by every thread that waits for a child."""

    def __init__(self):
        self.signum = None
        self.noticed, self.write_end = os.pipe()  # readable for good after a signal

    def catch_signals(self):
        """What is ignored (nohup, background jobs of a script) stays ignored."""
        for s in SIGNALS:
            if signal.getsignal(s) != signal.SIG_IGN:
                signal.signal(s, self._caught)

    def _caught(self, signum, frame):
        if self.signum is None:
            self.signum = signum
            os.write(self.write_end, b"x")

    def check(self):
        if self.signum is not None:
            raise Ended(128 + self.signum)

    def run(self, argv, timeout=None, **kw):
        """As subprocess.call; may raise Ended."""
        self.check()
        proc = subprocess.Popen(tied(argv), start_new_session=True, **kw)
        fd = os.pidfd_open(proc.pid)
        try:
            if fd not in select.select([fd, self.noticed], [], [], timeout)[0]:
                os.killpg(proc.pid, signal.SIGTERM)
                select.select([fd], [], [], GRACE)
                self.check()
                raise subprocess.TimeoutExpired(argv, timeout)
        finally:
            # The leader is not reaped yet, so the group's number is still its own.
            os.killpg(proc.pid, signal.SIGKILL)
            proc.wait()
            os.close(fd)
        return proc.returncode


def lock(path):
    """Locks a file, made if missing, until all who have the descriptor are gone.  None if somebody else has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
