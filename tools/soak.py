#!/usr/bin/python3
"""Kill storms.

machines: kills wslx, wslx-vmm, its children or passt at random moments, and checks after each that the next command works,
that nothing is left behind, and at the end that the image is clean.
portal: kills processes that exchange records and calls over a Portal region (tools/soak_portal.py).
guests: kills machines, their programs and one on the host that do that (tools/soak_guests.py).

usage: tools/soak.py [machines] [portal] [guests] [--rounds N] [--kills N] [--guest-kills N] [--guests N] [--seed N]
                     [--engine tcg|kvm] [--build DIR]
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests/e2e"))
PARTS = ["machines", "portal", "guests"]


def build_all(build, images):
    if os.environ.get("WSLX_IN_LAB"):
        return
    if not os.path.exists(os.path.join(build, "build.ninja")):
        subprocess.run(["meson", "setup", build], cwd=TOP, env=dict(os.environ, CC="gcc"), check=True)
    subprocess.run(["ninja", "-C", build, "--quiet"], check=True)
    if images:
        subprocess.run([os.path.join(TOP, "tests/e2e/prepare.sh"), build], check=True)


def new_home():
    return tempfile.mkdtemp(prefix="wslx-soak-", dir="/scratch" if os.environ.get("WSLX_IN_LAB") else None)


def soak_portal(args, conftest):
    import soak_portal

    w = conftest.Wslx(new_home())
    print(f"portal: seed {args.seed}, {args.kills} kills", flush=True)
    try:
        soak_portal.run(w, args.build, args.kills, random.Random(args.seed), say=lambda line: print(line, flush=True))
    except soak_portal.Failed as e:
        print(f"portal: {e}")
        return 1
    finally:
        shutil.rmtree(w.home, ignore_errors=True)
    return 0


def new_machine_home(args):
    home = new_home()
    os.makedirs(os.path.join(home, "data"))
    shutil.copytree(os.path.join(args.build, "e2e/home/data/kernels"), os.path.join(home, "data/kernels"), symlinks=True)
    return home


def soak_guests(args, conftest):
    import soak_guests
    import soak_portal

    w = conftest.Wslx(new_machine_home(args))
    print(f"guests: seed {args.seed}, {args.guest_kills} kills, {args.guests} machines, engine {args.engine}", flush=True)
    try:
        tar = conftest.make_mini_tar(pathlib.Path(w.home))
        soak_guests.run(w, args.build, tar, args.guest_kills, random.Random(args.seed), args.guests,
                        say=lambda line: print(line, flush=True))
    except soak_portal.Failed as e:
        print(f"guests: {e}")
        return 1
    finally:
        shutil.rmtree(w.home, ignore_errors=True)
    return 0


def soak_machines(args, conftest):
    home = new_machine_home(args)
    w = conftest.Wslx(home)
    w.ok("import", "soak", os.path.join(args.build, "e2e/debian.tar"), "--kernel", "cloud", "--size", "8G", timeout=900)
    rng = random.Random(args.seed)
    print(f"soak: seed {args.seed}, {args.rounds} rounds, engine {args.engine}", flush=True)
    pause = threading.Event()
    for n in range(args.rounds):
        want = f"{n} {rng.random()}"
        w.ok("-d", "soak", "-e", "sh", "-c", f"echo '{want}' >/root/kept; sync")
        p = w.popen("-d", "soak", "-e", "sh", "-c", "dd if=/dev/urandom of=/root/junk bs=64k count=200 2>/dev/null; exec sleep 5")
        pid = w.vmm_pid("soak")
        victims = [p.pid, pid, *conftest.children_of(pid)]
        pause.wait(rng.random())
        victim = rng.choice(victims)
        try:
            name = open(f"/proc/{victim}/comm").read().strip()
            os.kill(victim, signal.SIGKILL)
        except OSError:
            name = "gone"
        if name not in ("wslx",):
            p.kill()
        p.wait(60)
        p.stdout.close()
        p.stderr.close()
        if victim != p.pid and name != "gone" and not name.startswith("passt"):
            conftest.wait_for("all processes of the machine end",
                              lambda: not any(conftest.alive(v) for v in victims), 60)
        got = w.ok("-d", "soak", "-e", "cat", "/root/kept").strip()
        if got != want:
            print(f"soak: round {n} (killed {name}): synced data lost: {got!r} instead of {want!r}")
            return 1
        print(f"round {n}: killed {name}", flush=True)
    w.ok("terminate", "soak")
    disk = os.path.join(home, "data/distros/soak/disk.img")
    r = subprocess.run(["/sbin/e2fsck", "-fn", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print("image clean" if r.returncode == 0 else r.stdout)
    shutil.rmtree(home, ignore_errors=True)
    return r.returncode


def main():
    ap = argparse.ArgumentParser(prog="make soak")
    ap.add_argument("--rounds", type=int, default=100, help="of machines")
    ap.add_argument("--kills", type=int, default=1000, help="of host processes that use Portal")
    ap.add_argument("--guest-kills", type=int, default=150, help="of machines, programs in them and one on the host, each a third")
    ap.add_argument("--guests", type=int, default=2, help="machines that use Portal at a time")
    ap.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    ap.add_argument("--engine", default="tcg")
    ap.add_argument("--build", default=os.path.join(TOP, "build-check"))
    ap.add_argument("parts", nargs="*", help=" ".join(PARTS))
    args = ap.parse_args()
    for p in args.parts:
        if p not in PARTS:
            ap.error(f"unknown part '{p}'")
    parts = args.parts or PARTS
    os.environ["WSLX_E2E_ENGINE"] = args.engine
    os.environ["WSLX_E2E_BUILD"] = args.build
    build_all(args.build, "machines" in parts or "guests" in parts)
    import conftest

    run = {"machines": soak_machines, "portal": soak_portal, "guests": soak_guests}
    return max([run[p](args, conftest) for p in parts])


sys.exit(main())
