#!/usr/bin/python3
"""Portal's benchmarks: a table of ratios, and a plot.

usage: bench/portal.py [--build DIR] [--rounds N] [--runs N] [--svg FILE] [rtt|asleep|spsc|rpc|bulk|fan|flat|commands|tcg|lab ...]
Host to host: figures are medians of --runs runs of bench/portal.c; in each run the peers take turns batch by batch.
tcg, lab: between host and machines of the tcg engine, and of the kvm engine in the lab (bench/portal_machines.py), built in
--machines.  In both everything in a machine is emulated: only the ratios mean anything.

--smoke PORTAL_BENCH BROKER PORTAL_ACROSS: programs that are built already, everything between host processes once and as short
as can be, and no budgets: that it works (bench/meson.build).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

import portal_machines

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NATIVE = ["rtt", "asleep", "spsc", "rpc", "bulk", "fan", "flat", "commands"]
MACHINES = ["tcg", "lab"]
PARTS = NATIVE + MACHINES
COMMAND_SIZES = [(4096, "4 KiB"), (65536, "64 KiB"), (1048576, "1 MiB")]
IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
WRITERS = (1, 2, 4, 8)
# Over what, and operations of bench/portal_flat.c.
FLAT = [("mib", "regions of {} to {} MiB"), ("objects", "{} to {} objects"), ("blocks", "{} to {} blocks of 32 KiB"),
        ("names", "{} to {} names")]
FLAT_OPS = [("alloc", "alloc and free, 256 bytes"), ("block", "alloc and free, 32 KiB"), ("large", "alloc and free, 1 MiB"),
            ("resolve", "resolve"), ("publish", "publish and unpublish"), ("connect", "connect and close")]


def measure(exe, part, rounds, runs):
    all_runs = []
    for _ in range(runs):
        out = subprocess.run([exe, part, str(rounds)], stdout=subprocess.PIPE, text=True, check=True, timeout=600).stdout
        all_runs.append({k: float(v) for k, v in (line.split() for line in out.splitlines())})
    return all_runs


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def ratio(runs, a, b):
    return statistics.median(r[a] / r[b] for r in runs)


class Table:
    def __init__(self):
        self.rows, self.missed = [], 0

    def add(self, what, ours, peer="", r=None, budget=None):
        mark = ""
        if budget:
            op, limit = budget
            ok = r <= limit if op == "<=" else r >= limit
            mark = f"{op} {limit} {'ok' if ok else 'MISSED'}"
            self.missed += not ok
        self.rows.append((what, ours, peer, f"{r:.2f}" if r is not None else "", mark))

    def show(self):
        head = ("what", "portal", "peer", "ratio", "budget")
        width = [max(len(r[i]) for r in [head, *self.rows]) for i in range(5)]
        for r in [head, *self.rows]:
            print("  ".join(c.ljust(w) for c, w in zip(r, width)).rstrip())


def report(part, runs, t):
    m = lambda k: median(runs, k)
    if part == "rtt":
        r = ratio(runs, "rtt.ring.p50", "rtt.bare.p50")
        t.add("round trip, both awake", f"{m('rtt.ring.p50'):.0f} ns", f"{m('rtt.bare.p50'):.0f} ns bare lines", r, ("<=", 1.5))
        for k, what in ("unix", "unix socket"), ("pipe", "pipe"):
            t.add(f"round trip against a {what}", f"{m('rtt.ring.p50'):.0f} ns", f"{m(f'rtt.{k}.p50'):.0f} ns",
                  ratio(runs, "rtt.ring.p50", f"rtt.{k}.p50"))
    elif part == "asleep":
        t.add("round trip, both asleep", f"{m('asleep.ring.p50') / 1000:.1f} us", f"{m('asleep.bare.p50') / 1000:.1f} us bare futex",
              ratio(runs, "asleep.ring.p50", "asleep.bare.p50"), ("<=", 1.5))
    elif part == "spsc":
        for k, what in ("ring", "64-byte records, one by one"), ("batch", "64-byte records, 32 at a time"):
            t.add(what, f"{m(f'spsc.{k}.p50'):.1f} ns", f"{m('spsc.bare.p50'):.1f} ns bare loop",
                  ratio(runs, f"spsc.{k}.p50", "spsc.bare.p50"), ("<=", 2.0))
    elif part == "rpc":
        for k in IN_FLIGHT:
            ours, theirs = (" / ".join(f"{m(f'{key}.{k}.{q}') / 1000:.2f}" for q in ("p50", "p99", "p999")) for key in ("rpc", "rpc.unix"))
            t.add(f"RPC, {k} in flight: p50 / p99 / p99.9", f"{ours} us", f"{theirs} us unix socket",
                  ratio(runs, f"rpc.{k}.p50", f"rpc.unix.{k}.p50"))
            t.add(f"RPC, {k} in flight: a call", f"{m(f'rpc.{k}.each'):.0f} ns", f"{m(f'rpc.unix.{k}.each'):.0f} ns unix socket",
                  ratio(runs, f"rpc.{k}.each", f"rpc.unix.{k}.each"))
        t.add("RPC p99, 1 in flight, against 2 us", f"{m('rpc.1.p99'):.0f} ns", "2000 ns", m("rpc.1.p99") / 2000, ("<=", 1.0))
    elif part == "bulk":
        for k in (1, 16, 256):
            t.add(f"bulk, {k} MiB", f"{m(f'bulk.{k}.portal'):.2f} GB/s", f"{m(f'bulk.{k}.memcpy'):.2f} GB/s memcpy",
                  ratio(runs, f"bulk.{k}.portal", f"bulk.{k}.memcpy"), (">=", 0.95))
    elif part == "fan":
        for k in WRITERS:
            t.add(f"fan-in of {k}, 64-byte records", f"{m(f'fan.{k}.portal'):.0f} ns a record", f"{m(f'fan.{k}.bare'):.0f} ns bare rings",
                  ratio(runs, f"fan.{k}.portal", f"fan.{k}.bare"))
    elif part == "commands":
        for n, what in COMMAND_SIZES:
            t.add(f"command stream, {what} of data each", f"{m(f'commands.{n}.portal') / 1000:.1f} us",
                  f"{m(f'commands.{n}.unix') / 1000:.1f} us unix socket", ratio(runs, f"commands.{n}.portal", f"commands.{n}.unix"))
    elif part == "flat":
        report_flat(runs, t)


def steps(runs, over):
    """Of what flat measured over: [10, 1000, ...]."""
    return sorted({int(k.split(".")[2]) for k in runs[0] if k.startswith(f"flat.{over}.")})


def report_flat(runs, t):
    """Each operation over each size: the slowest against the fastest."""
    for over, text in FLAT:
        n = steps(runs, over)
        what = text.format(f"{n[0]:,}", f"{n[-1]:,}")
        for op, name in FLAT_OPS + ([("open", "open, the same names again")] if over == "names" else []):
            v = [median(runs, f"flat.{over}.{k}.{op}") for k in n]
            unit, by = ("us", 1000) if v[0] > 5000 else ("ns", 1)
            t.add(f"{name}, {what}", " ".join(f"{x / by:.0f}" for x in v) + f" {unit}", f"{min(v) / by:.0f} {unit}", max(v) / min(v),
                  ("<=", 1.5))
    # Names at random are where the caches end: no more than the same again, and the memory's own time for as large tables.
    n = steps(runs, "names")
    limit = [[r[f"flat.names.{k}.open"] + r[f"flat.names.{k}.bare"] for r in runs] for k in n]
    r = [statistics.median(run[f"flat.names.{k}.cold"] / x for run, x in zip(runs, xs)) for k, xs in zip(n, limit)]
    t.add(f"open, a name at random, {n[0]:,} to {n[-1]:,} names",
          " ".join(f"{median(runs, f'flat.names.{k}.cold'):.0f}" for k in n) + " ns",
          " ".join(f"{statistics.median(xs):.0f}" for xs in limit) + " ns again + bare access", max(r), ("<=", 1.5))


def bars(x, y, title, values, unit):
    """One small chart: values is [(label, number)]."""
    out = [f'<text x="{x}" y="{y}" font-weight="bold">{title}</text>']
    top = max(v for _, v in values)
    for i, (label, v) in enumerate(values):
        yy = y + 14 + 20 * i
        w = max(1, 200 * v / top)
        out.append(f'<text x="{x}" y="{yy + 11}">{label}</text>'
                   f'<rect x="{x + 145}" y="{yy}" width="{w:.0f}" height="14" fill="{"#3a7" if "portal" in label else "#99a"}"/>'
                   f'<text x="{x + 151 + w:.0f}" y="{yy + 11}">{v:.4g} {unit}</text>')
    return out


def plot(results, path):
    charts = []
    m = median
    if r := results.get("rtt"):
        charts.append(("round trip", [("bare lines", m(r, "rtt.bare.p50")), ("portal ring", m(r, "rtt.ring.p50")),
                                      ("pipe", m(r, "rtt.pipe.p50")), ("unix socket", m(r, "rtt.unix.p50"))], "ns"))
    if r := results.get("asleep"):
        charts.append(("round trip, both asleep", [("bare futex", m(r, "asleep.bare.p50") / 1000),
                                                   ("portal ring", m(r, "asleep.ring.p50") / 1000)], "us"))
    if r := results.get("spsc"):
        charts.append(("64-byte record", [("bare loop", m(r, "spsc.bare.p50")), ("portal", m(r, "spsc.ring.p50")),
                                          ("portal, batched", m(r, "spsc.batch.p50"))], "ns"))
    if r := results.get("rpc"):
        for q, what in ("p50", "median"), ("p999", "p99.9"):
            charts.append((f"RPC, {what} by calls in flight", [(f"{name}, {k}", m(r, f"{key}.{k}.{q}") / 1000) for k in IN_FLIGHT
                                                               for name, key in (("unix", "rpc.unix"), ("portal", "rpc"))], "us"))
    if r := results.get("bulk"):
        charts.append(("bulk", [(f"{n}, {k} MiB", m(r, f"bulk.{k}.{key}")) for k in (1, 16, 256)
                                for n, key in (("memcpy", "memcpy"), ("portal", "portal"))], "GB/s"))
    if r := results.get("commands"):
        charts.append(("a command and its data", [(f"{name}, {what}", m(r, f"commands.{n}.{key}") / 1000)
                                                  for n, what in COMMAND_SIZES
                                                  for name, key in (("unix", "unix"), ("portal", "portal"))], "us"))
    if r := results.get("fan"):
        charts.append(("fan-in, a record", [(f"{name}, {k}", m(r, f"fan.{k}.{key}")) for k in WRITERS
                                            for name, key in (("bare rings", "bare"), ("portal", "portal"))], "ns"))
    if r := results.get("flat"):
        charts.append(("alloc and free by region", [(f"portal, {k} MiB", m(r, f"flat.mib.{k}.alloc")) for k in steps(r, "mib")], "ns"))
        charts.append(("open, a name at random", [(f"{name}, {k:,}", m(r, f"flat.names.{k}.{key}")) for k in steps(r, "names")
                                                  for name, key in (("bare access", "bare"), ("portal", "cold"))], "ns"))
        charts.append(("publish and unpublish", [(f"portal, {k:,} names", m(r, f"flat.names.{k}.publish") / 1000)
                                                 for k in steps(r, "names")], "us"))
    for part in MACHINES:
        if r := results.get(part):
            charts += portal_machines.charts(part, r)
    body, y = [], [20, 20]
    for i, (title, values, unit) in enumerate(charts):
        body += bars(20 + 440 * (i % 2), y[i % 2], title, values, unit)
        y[i % 2] += 50 + 20 * len(values)
    with open(path, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="{max(y)}" font-family="sans-serif" font-size="11">'
                '<rect width="100%" height="100%" fill="white"/>' + "\n".join(body) + "</svg>\n")


def smoke(exe, broker, across):
    """What a change of libportal or of the suite can break: a part that ends early, or without a figure that its rows want."""
    t, results = Table(), {}
    for part in NATIVE:
        results[part] = measure(exe, part, 1, 1)
        report(part, results[part], t)
    portal_machines.smoke(broker, across)
    t.show()
    with tempfile.TemporaryDirectory() as tmp:
        plot(results, os.path.join(tmp, "portal.svg"))
    return 0


def main():
    ap = argparse.ArgumentParser(prog="make bench-portal")
    ap.add_argument("--build", default=os.path.join(TOP, "build-bench"))
    ap.add_argument("--rounds", type=int, default=2000)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--trips", type=int, default=1000, help="between host and machines; a quarter of them in the lab")
    ap.add_argument("--machines", default=os.path.join(TOP, "build-check"), help="build folder of tcg and lab")
    ap.add_argument("--svg")
    ap.add_argument("--smoke", nargs=3, metavar=("PORTAL_BENCH", "BROKER", "PORTAL_ACROSS"))
    ap.add_argument("parts", nargs="*", help=" ".join(PARTS))
    args = ap.parse_args()
    for p in args.parts:
        if p not in PARTS:
            ap.error(f"unknown part '{p}'")
    if args.smoke:
        return smoke(*args.smoke)
    if not os.path.exists(os.path.join(args.build, "build.ninja")):
        subprocess.run(["meson", "setup", "--buildtype=release", "-Dtests=false", args.build], cwd=TOP,
                       env=dict(os.environ, CC="gcc"), check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", args.build, "--quiet", "bench/portal_bench"], check=True)
    t, results = Table(), {}
    for part in args.parts or PARTS:
        if part in MACHINES:
            try:
                figures = portal_machines.measure(os.path.abspath(args.machines), part, args.trips)
            except (subprocess.SubprocessError, portal_machines.Incomplete) as e:
                print(f"{part}: no figures: {e}", file=sys.stderr)
                t.missed += 1
                continue
            results[part] = figures
            for row in portal_machines.rows(part, figures):
                t.add(*row)
            continue
        # A round of commands is 140 MiB through a socket, one of fan-in 32,000 records.
        rounds = max(1, args.rounds // {"commands": 50, "fan": 40}.get(part, 1))
        results[part] = measure(os.path.join(args.build, "bench/portal_bench"), part, rounds, args.runs)
        report(part, results[part], t)
    t.show()
    svg = args.svg or os.path.join(args.build, "portal.svg")
    plot(results, svg)
    print(f"plot: {svg}")
    return 1 if t.missed else 0


sys.exit(main())
