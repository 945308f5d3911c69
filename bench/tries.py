"""Runs that are repeated when they give no result.

The emulated host of the lab now and then loses a guest (docs/testing.md): it dies early, or never answers.  Such a run says
nothing about either monitor, so it is repeated, and that is said beside the figures.  How often is limited: a monitor that
never works has to be told from one that was unlucky.
"""

import collections
import statistics
import subprocess

REPEATS = 4


class Failed(Exception):
    """A run without a result.  detail is for whoever has to find out why."""

    def __init__(self, why, detail=""):
        super().__init__(why)
        self.detail = detail


class Side:
    """The runs of one of the two that are compared."""

    def __init__(self, name, run, repeats=REPEATS):
        self.name, self.run, self.repeats = name, run, repeats
        self.results, self.failures = [], []

    def gave_up(self):
        return len(self.failures) > self.repeats

    def once(self, keep=True):
        """One run that counts, or is only to warm things; nothing once this side has given up."""
        while not self.gave_up():
            try:
                r = self.run()
            except (Failed, AssertionError, OSError, subprocess.SubprocessError) as e:
                self.failures.append(e)
            else:
                if keep:
                    self.results.append(r)
                return

    def median(self, key):
        """None if nothing was measured.  A run's results are a tuple or a dictionary."""
        return statistics.median(r[key] for r in self.results) if self.results else None

    def why(self):
        counts = collections.Counter((str(e) or repr(e)).splitlines()[0][:100] for e in self.failures)
        return "; ".join(f"{w} ({n} times)" if n > 1 else w for w, n in counts.items())

    def notes(self):
        """Lines that say what the figures do not."""
        n = len(self.failures)
        if not n:
            return
        if not self.gave_up():
            yield f"{n} run{'s' if n > 1 else ''} of {self.name} {'were' if n > 1 else 'was'} repeated: {self.why()}"
            return
        yield f"{self.name} gave up after {n} runs without a result: {self.why()}"
        if self.results:
            yield f"{self.name}: the figures are of {len(self.results)} run{'s' if len(self.results) > 1 else ''} only"
        yield from getattr(self.failures[-1], "detail", "").splitlines()[-10:]


def alternate(ours, theirs, runs):
    for _ in range(runs):
        ours.once()
        theirs.once()
