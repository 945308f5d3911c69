#!/usr/bin/python3
"""Runs every test and prints one count at the end.

Each stage runs one layer of the tests (see docs/testing.md) and adds to the
count.  A stage that cannot run is a failure; a single test that cannot run on
this machine is a skip, and must be on tests/skips.txt with its reason.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

import children

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PY = "/usr/bin/python3"
CHILDREN = children.Children()
LOCK = []  # the lock of this tree's check: what a child still writes belongs to the check that started it


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.bad = []      # names of what failed
        self.why = {}      # name -> what the test said
        self.skips = []    # (name, reason)
        self.notes = []    # what else is to be said

    def ok(self, name):
        self.passed += 1

    def fail(self, name, why=""):
        self.failed += 1
        self.bad.append(name)
        self.why[name] = why

    def skip(self, name, reason):
        self.skipped += 1
        self.skips.append((name, reason))

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.bad += other.bad
        self.why.update(other.why)
        self.skips += other.skips


def sh(argv, log, env=None, timeout=3600):
    with open(log, "ab") as f:
        f.write(f"$ {' '.join(argv)}\n".encode())
        f.flush()
        try:
            return CHILDREN.run(argv, stdout=f, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=TOP,
                                env=dict(os.environ, **(env or {})), timeout=timeout, pass_fds=LOCK)
        except subprocess.TimeoutExpired:
            f.write(f"timed out after {timeout} s\n".encode())
            return 124
        except children.Ended:
            f.write(b"ended by a signal\n")
            raise


def last_lines(text, n=40):
    return "\n".join(line if len(line) < 400 else line[:400] + "..." for line in text.splitlines()[-n:])


def tail(log, start=0):
    with open(log, errors="replace") as f:
        f.seek(start)
        return last_lines(f.read())


def configure(build, options, env, log):
    path = os.path.join(TOP, build)
    if not os.path.exists(os.path.join(path, "build.ninja")):
        return sh(["meson", "setup", path, *options], log, env)
    return sh(["meson", "configure", path, *options], log, env)


def build(name, build_dir, options, env=None):
    """A stage that builds everything, warnings being errors."""
    def stage(t, log):
        if configure(build_dir, options, env, log) or sh(["ninja", "-C", build_dir], log):
            t.fail(f"build:{name}")
            return False
        t.ok(f"build:{name}")
        return True
    return stage


def meson_tests(name, build_dir, env=None, args=()):
    def stage(t, log):
        path = os.path.join(TOP, build_dir, "meson-logs/testlog.json")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # what the last run found is not this run's
        status = sh(["meson", "test", "-C", build_dir, "--no-rebuild", "--print-errorlogs", *args], log, env)
        try:
            lines = open(path).read().splitlines()
        except OSError:
            t.fail(f"{name}: no test log")
            return False
        failed = t.failed
        for line in lines:
            r = json.loads(line)
            test = f"{name}:{r['name']}"
            out = (r.get("stdout") or "") + (r.get("stderr") or "")
            if r["result"] in ("OK", "EXPECTEDFAIL"):
                t.ok(test)
                # cmocka: a case alone may be skipped, and the program has passed.
                for case in sorted(set(re.findall(r"^\[  SKIPPED \] (\w+)$", out, re.M))):
                    t.skip(f"{test}/{case}", "this machine lacks what it needs")
            elif r["result"] == "SKIP":
                t.skip(test, out.strip().splitlines()[-1] if out.strip() else "no reason given")
            else:
                t.fail(test, last_lines(out))
        # Its status is the number of failures, at most 255: anything else, and not all tests ran.
        if not lines or (status != 0) != (t.failed > failed):
            t.fail(f"{name}: meson test ended with status {status} after {len(lines)} tests")
        return True
    return stage


def pytest_results(t, name, xml, empty_ok=False):
    try:
        root = ET.parse(xml).getroot()
    except (OSError, ET.ParseError):
        t.fail(f"{name}: no result")
        return
    cases = list(root.iter("testcase"))
    if not cases and not empty_ok:
        t.fail(f"{name}: no test ran")
    for c in cases:
        test = f"{name}:{c.get('classname', '').split('.')[-1]}.{c.get('name')}"
        bad = c.find("failure") if c.find("failure") is not None else c.find("error")
        if bad is not None:
            t.fail(test, (bad.text or bad.get("message", "")) + (c.findtext("system-out") or ""))
        elif (s := c.find("skipped")) is not None:
            t.skip(test, s.get("message", ""))
        else:
            t.ok(test)


def images(t, log):
    """What both end-to-end suites start from."""
    if sh(["tests/e2e/prepare.sh", "build-check"], log):
        t.fail("images")
    else:
        t.ok("images")


def e2e_tcg(t, log):
    xml = os.path.join(TOP, "build-check/e2e-tcg.xml")
    if os.path.exists(xml):
        os.unlink(xml)
    sh([PY, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/e2e", f"--junitxml={xml}",
        "-o", "junit_logging=system-out"], log,
       {"WSLX_E2E_ENGINE": "tcg", "WSLX_E2E_BUILD": os.path.join(TOP, "build-check")}, timeout=2400)
    pytest_results(t, "e2e-tcg", xml)


# What QEMU's emulation of SVM does to kernels in the lab, none of it our doing: an interrupt that reaches the emulated
# host between VMRUN and VMLOAD, with the guest's GS base (its stack overflows, and it panics); a VMRUN that is refused
# because of an event that the emulation itself left in the VMCB; a guest that is given what was not meant for it.
EMULATION_FAULT = re.compile(r"stack guard page was hit|general protection fault|BUG: |Kernel panic|"
                             r"the hypervisor gave up")
GUEST_FAULT = re.compile(r"the hypervisor gave up|stopped with a triple fault")


def lab_results(text):
    """Test file or case -> its JUnit XML, from the lab's output."""
    return {m[1]: m[2] for m in re.finditer(r"^@@XML (\S+)\n(.*?)\n@@END", text, re.S | re.M) if "<testcase" in m[2]}


def lab_boot(todo, log, console):
    """One boot of the emulated host for these test files or cases.  Returns their results."""
    run = "{py} -m pytest -q -p no:cacheprovider 'tests/e2e/{f}' --junitxml=/scratch/r.xml -o junit_logging=system-out; " \
          "echo; echo '@@XML {f}'; cat /scratch/r.xml; echo; echo @@END; rm -f /scratch/r.xml"
    start = os.path.getsize(log)
    # One CPU: what goes wrong in the emulation goes wrong when KVM there interrupts another processor's guest.
    sh(["lab/lab.py", "--cpus", "1", "--timeout", "2400", "--stall", "300", "--console", console,
        "; ".join(run.format(py=PY, f=f) for f in todo)], log,
       {"WSLX_E2E_ENGINE": "kvm", "WSLX_E2E_BUILD": os.path.join(TOP, "build-check")}, timeout=2500)
    with open(log, errors="replace") as f:
        f.seek(start)
        return lab_results(f.read())


def emulation_faults(xml):
    """The failed cases of a file whose own report shows a fault of the emulated processor, as pytest names them."""
    cases = []
    for c in ET.fromstring(xml).iter("testcase"):
        text = "".join(c.itertext())
        if (c.find("failure") is not None or c.find("error") is not None) and GUEST_FAULT.search(text):
            cases.append(f"{c.get('classname').split('.')[-1]}.py::{c.get('name')}")
    return cases


def take_case_out(xml, name):
    root = ET.fromstring(xml)
    for suite in root.iter("testsuite"):
        for c in list(suite.iter("testcase")):
            if c.get("name") == name:
                suite.remove(c)
    return ET.tostring(root, encoding="unicode")


def e2e_lab(t, log):
    """The same suite on the kvm engine, in the emulated host; results come back on standard output.

    Files that have no result because the emulated host's kernel died (see EMULATION_FAULT) run again in a fresh boot, and
    so does, once, a case whose report shows that the emulated processor gave up or faulted for no reason.  Both are said.  Any other
    failure counts at once.  The tiny guests run on the machine's own /dev/kvm (stage unit).
    """
    todo = sorted(f for f in os.listdir(os.path.join(TOP, "tests/e2e")) if f.startswith("test_"))
    console = os.path.join(TOP, "build-check-logs/lab-console.log")
    results, again = {}, []
    for boot in range(8):
        open(console, "w").close()
        got = lab_boot(todo, log, console)
        for name in got:
            todo.remove(name)
            if "::" not in name:
                again = emulation_faults(got[name])
                for case in again:
                    t.notes.append(f"emulation fault in {case}: repeated")
                    got[name] = take_case_out(got[name], case.split("::")[1])
                todo += again
        results.update(got)
        if not todo:
            break
        with open(console, errors="replace") as f:
            if not set(todo) <= set(again) and not EMULATION_FAULT.search(f.read()):
                t.notes.append("the emulated host stopped, its console says nothing")
        if not got:
            t.notes.append(f"boot {boot + 1} of the emulated host died")
    for name, text in results.items():
        xml = os.path.join(TOP, "build-check", f"kvm-{name.replace('::', '-').replace('/', '-')}.xml")
        with open(xml, "w") as f:
            f.write(text)
        pytest_results(t, "e2e-kvm", xml, empty_ok="::" not in name)
    for name in todo:
        t.fail(f"e2e-kvm: {name}: the emulated host died each time")


def fmt(t, log):
    files = subprocess.run(["git", "ls-files", "*.c", "*.h"], cwd=TOP, stdout=subprocess.PIPE,
                           text=True).stdout.split()
    if sh(["clang-format", "--dry-run", "-Werror", *files], log):
        t.fail("clang-format")
    else:
        t.ok("clang-format")


def tidy(t, log):
    files = subprocess.run(["git", "ls-files", "src/*.c"], cwd=TOP, stdout=subprocess.PIPE, text=True).stdout.split()
    with open(os.path.join(TOP, "build-check-clang/compile_commands.json")) as f:
        known = {os.path.normpath(os.path.join(e["directory"], e["file"])) for e in json.load(f)}
    todo = [f for f in files if os.path.join(TOP, f) in known]
    script = "exec xargs -0 -n 8 -P 2 clang-tidy --quiet -p build-check-clang < <(printf '%s\\0' \"$@\")"
    if sh(["bash", "-c", script, "tidy", *todo], log):
        t.fail("clang-tidy")
    else:
        t.ok("clang-tidy")


def fuzz_replay(t, log):
    """Every committed corpus through its target, once."""
    if configure("build-check-fuzz", ["-Dfuzz=true", "-Dtests=false", "-Db_sanitize=address,undefined",
                                      "-Db_lundef=false"], {"CC": "clang"}, log) or \
            sh(["ninja", "-C", "build-check-fuzz"], log):
        t.fail("build:fuzz")
        return
    planted = os.path.join(TOP, "fuzz/planted")
    for patch in sorted(os.listdir(planted)):
        # Tried by tools/fuzz_planted.py, which takes too long for here.
        if sh(["git", "apply", "--check", os.path.join(planted, patch)], log):
            t.fail(f"fuzz: the planted bug {patch} does not apply")
    corpora = os.path.join(TOP, "fuzz/corpora")
    folder = os.path.join(TOP, "build-check-fuzz/fuzz")
    logs = os.path.join(TOP, "build-check-logs/")
    for exe in sorted(os.listdir(folder)):
        path = os.path.join(folder, exe)
        if not exe.startswith("fuzz_") or not os.path.isfile(path) or not os.access(path, os.X_OK):
            continue
        corpus = os.path.join(corpora, exe[5:])
        if not os.path.isdir(corpus):
            t.fail(f"fuzz:{exe[5:]}: no corpus")
            continue
        start = os.path.getsize(log)
        status = sh([path, "-runs=0", "-timeout=30", "-rss_limit_mb=4096", f"-artifact_prefix={logs}", corpus], log,
                    {"UBSAN_OPTIONS": "halt_on_error=1"}, timeout=600)
        if status:
            t.fail(f"fuzz:{exe[5:]}", f"status {status}\n{tail(log, start)}")
        else:
            t.ok(f"fuzz:{exe[5:]}")


def check_skips(t, log):
    """Every skip must be on the committed list."""
    allowed = []
    with open(os.path.join(TOP, "tests/skips.txt")) as f:
        for line in f:
            line = line.split("#")[0].strip()
            if line:
                allowed.append(line)
    for name, reason in t.skips:
        if not any(re.fullmatch(p.replace("*", ".*"), name) for p in allowed):
            t.fail(f"skip not on tests/skips.txt: {name} ({reason})")


SAN = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
STAGES = [
    ("gcc", build("gcc", "build-check", ["-Dwerror=true"], {"CC": "gcc"})),
    ("images", images),
    ("clang", build("clang", "build-check-clang", ["-Dwerror=true"], {"CC": "clang"})),
    ("format", fmt),
    ("tidy", tidy),
    ("unit", meson_tests("unit", "build-check")),
    ("asan-build", build("asan", "build-check-asan", ["-Db_sanitize=address,undefined", "-Db_lundef=false"],
                         {"CC": "gcc"})),
    ("asan", meson_tests("asan", "build-check-asan", SAN)),
    ("tsan-build", build("tsan", "build-check-tsan", ["-Db_sanitize=thread", "-Db_lundef=false"], {"CC": "gcc"})),
    ("tsan", meson_tests("tsan", "build-check-tsan", {"TSAN_OPTIONS": "halt_on_error=1"})),
    ("fuzz", fuzz_replay),
    ("e2e-tcg", e2e_tcg),
    ("e2e-kvm", e2e_lab),
]


# The lab keeps one processor busy for long, and no other stage needs what it writes: it runs beside them.
BESIDE = "e2e-kvm"
# What it needs: the programs and the images.
FIRST = ("gcc", "images")


def run_stage(name, stage, logs):
    """Runs one stage and says how it went, in one piece.  Returns its count."""
    t = Tally()
    log = os.path.join(logs, f"{name}.log")
    open(log, "w").close()
    print(f"==> {name}", flush=True)
    start = time.monotonic()
    try:
        stage(t, log)
    except Exception as e:  # a mistake in a stage is a failure of that stage
        t.fail(f"{name}: {e!r}")
    said = [f"    {name}: {'FAILED' if t.bad else 'ok'} ({time.monotonic() - start:.0f} s)"]
    said += [f"    {n}" for n in t.notes]
    for b in t.bad:
        said.append(f"    failed: {b}")
        said += [f"        {line}" for line in t.why[b].splitlines()[-150:]]
    if any(not t.why[b] for b in t.bad):
        said.append(tail(log))
    print("\n".join(said), flush=True)
    return t


def run_stages(wanted, logs):
    stages = [(n, s) for n, s in STAGES if n in wanted]
    counts, beside = [], []
    if len(wanted) > 1 and BESIDE in wanted:
        beside = [s for s in stages if s[0] == BESIDE]
        stages = [s for s in stages if s[0] != BESIDE]
    first = [s for s in stages if s[0] in FIRST]
    for n, s in first:
        counts.append(run_stage(n, s, logs))
    lane = threading.Thread(target=lambda: counts.extend([run_stage(n, s, logs) for n, s in beside]))
    lane.start()
    for n, s in stages:
        if (n, s) not in first:
            counts.append(run_stage(n, s, logs))
    lane.join()
    CHILDREN.check()  # the other lane ends silently
    return counts


def lock_tree(path):
    """Two in one tree would write to the same logs and build folders."""
    fd = children.lock(path)
    if fd is None:
        with open(path) as f:
            sys.exit(f"make check: another one works in this tree: process {f.read(20).strip()}, or what it started and is now ending")
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
    LOCK.append(fd)


def main():
    ap = argparse.ArgumentParser(prog="make check")
    ap.add_argument("stages", nargs="*", help="only these: " + " ".join(n for n, _ in STAGES))
    args = ap.parse_args()
    names = [n for n, _ in STAGES]
    for s in args.stages:
        if s not in names:
            ap.error(f"unknown stage '{s}'")
    logs = os.path.join(TOP, "build-check-logs")
    os.makedirs(logs, exist_ok=True)
    lock_tree(os.path.join(logs, "lock"))
    CHILDREN.catch_signals()
    t = Tally()
    try:
        for c in run_stages(args.stages or names, logs):
            t.add(c)
    except children.Ended as e:
        print(f"make check: ended by {signal.Signals(CHILDREN.signum).name}", file=sys.stderr, flush=True)
        raise e
    check_skips(t, None)
    for name, reason in t.skips:
        print(f"skipped: {name}: {reason}")
    for b in t.bad:
        print(f"failed: {b}")
    print(f"{t.passed} passed, {t.failed} failed, {t.skipped} skipped")
    return 1 if t.failed or not t.passed else 0


sys.exit(main())
