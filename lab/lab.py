#!/usr/bin/python3
"""Runs a command in an emulated host that has a complete KVM.

Theory of operation.  QEMU's TCG emulates an AMD processor with SVM and nested
paging.  In it the distribution's standard kernel loads kvm-amd, so /dev/kvm in
there is real KVM, whatever the machine underneath can do.  The emulated host
(L1) sees this machine's own file tree read-only over 9p, under an overlay, so
what was built here runs there unchanged.  State goes to a scratch ext4 disk
(/scratch), because files of a 9p tree neither stay sparse nor take O_DIRECT.
The command's output comes back over a virtio-serial port, its exit status
through a small writable 9p share.

Exit status: the command's; 125 if the lab itself failed; 124 on time-out.  An emulated host on
a very busy machine has been seen to freeze: --stall notices that.  The emulated host does not outlive this program, however
that ends.
"""

import argparse
import gzip
import lzma
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools"))
import children  # noqa: E402

MODULES = """
    netfs fscache 9pnet 9p virtio_ring virtio 9pnet_virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci
    overlay irqbypass kvm ccp kvm-amd tun failover net_failover virtio_net virtio_blk virtio_console
    vsock vhost_iotlb vhost vmw_vsock_virtio_transport_common vhost_vsock tap vhost_net fuse crc32c_generic
    libcrc32c crc16 mbcache jbd2 ext4 llc stp bridge loop
""".split()

# EPYC less what TCG does not have, so that QEMU has nothing to warn about; and less XSAVE: the emulation does not tell KVM of a
# guest's XSETBV, so that CPUID 0xd is out of date. With AVX every guest's kernel warned of that with 4 KiB on its console, and
# did without XSAVE; with XSAVE alone it noticed nothing, and programs died.
CPU = ("EPYC,+svm,+npt,-xsave,-xsaveopt,-xgetbv1,-avx,-avx2,-fma,-f16c,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,"
       "-osvw,-topoext,-nrip-save,-xsavec")

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in $(cat /modules.order); do
    insmod /modules/$m 2>/dev/null
done
fail() { echo "lab: $*" >/dev/console; poweroff -f; }
mkdir -p /lower /upper /job /root
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose hostroot /lower || fail "no host root"
mount -t tmpfs -o mode=755 tmpfs /upper
mkdir /upper/up /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/up,workdir=/upper/work overlay /root || fail "no overlay"
mkdir -p /root/job /root/scratch
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none job /root/job || fail "no job share"
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; usleep 100000; done
mount -t ext4 -o noatime /dev/vda /root/scratch || fail "no scratch disk"
for d in proc sys dev; do mount --move /$d /root/$d; done
mount -t tmpfs -o mode=755 tmpfs /root/run
mkdir -p /root/dev/shm /root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /root/dev/pts
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
rm -f /root/etc/resolv.conf
echo "nameserver 10.0.2.3" >/root/etc/resolv.conf
hostname lab
chmod 666 /root/dev/kvm /root/dev/vhost-vsock 2>/dev/null
exec switch_root /root /bin/bash /job/run
"""

RUN = """#!/bin/bash
export HOME=/scratch/home TMPDIR=/scratch/tmp WSLX_IN_LAB=1
# Its own: /tmp/wslx-0 is the outer host's, seen through 9p.
export XDG_RUNTIME_DIR=/run/user/0
mkdir -p -m 700 $HOME $TMPDIR $XDG_RUNTIME_DIR
ulimit -c 0
port=/dev/$(cd /sys/class/virtio-ports && for p in *; do [ "$(cat $p/name 2>/dev/null)" = out ] && echo $p; done)
exec >"$port" 2>&1 </dev/null
cd {cwd} || exit 125
[ -e /dev/kvm ] || {{ echo "lab: the emulated host has no /dev/kvm"; echo 125 >/job/status; }}
[ -e /job/status ] || {{ bash /job/cmd; echo $? >/job/status; }}
sync -f /scratch
sync -f /job
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
"""


def die(msg):
    print(f"lab: {msg}", file=sys.stderr)
    sys.exit(125)


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(base, "wslx", "lab")
    os.makedirs(path, exist_ok=True)
    return path


def run(argv, **kw):
    r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if r.returncode:
        die(f"{shlex.join(argv)} failed: {r.stdout.strip()[-400:]}")
    return r.stdout


def kernel_package(meta="linux-image-amd64"):
    out = run(["apt-cache", "depends", meta])
    for line in out.splitlines():
        line = line.strip()
        if line.startswith("Depends: linux-image-"):
            return line.split()[1]
    die(f"cannot tell which package {meta} stands for; run 'apt-get update' first")


def fetch_kernel(cache):
    """The standard kernel's files, unpacked into the cache.  Returns (vmlinuz, module dir)."""
    pkg = kernel_package()
    dest = os.path.join(cache, pkg)
    if not os.path.exists(os.path.join(dest, "done")):
        shutil.rmtree(dest, ignore_errors=True)
        os.makedirs(dest)
        print(f"lab: downloading {pkg}", file=sys.stderr)
        run(["apt-get", "download", pkg], cwd=dest)
        debs = [f for f in os.listdir(dest) if f.endswith(".deb")]
        if len(debs) != 1:
            die(f"apt-get download {pkg} left {debs}")
        run(["dpkg-deb", "-x", debs[0], dest], cwd=dest)
        os.unlink(os.path.join(dest, debs[0]))
        open(os.path.join(dest, "done"), "w").close()
    boot = os.path.join(dest, "boot")
    vmlinuz = [f for f in os.listdir(boot) if f.startswith("vmlinuz-")][0]
    version = vmlinuz[len("vmlinuz-"):]
    return os.path.join(boot, vmlinuz), os.path.join(dest, "lib/modules", version)


def cpio_entry(name, mode, data=b"", ino=[1]):
    ino[0] += 1
    n = name.encode() + b"\0"
    head = "070701" + "".join(
        f"{v:08x}" for v in (ino[0], mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(n), 0))
    out = head.encode() + n
    out += b"\0" * (-len(out) % 4)
    return out + data + b"\0" * (-len(data) % 4)


def build_initramfs(cache, moddir):
    path = os.path.join(cache, f"initramfs-{os.path.basename(moddir)}.cpio")
    if os.path.exists(path) and os.path.getmtime(path) > os.path.getmtime(__file__):
        return path
    busybox = next((p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p)), None)
    if not busybox:
        die("busybox is missing: install busybox-static")
    found = {}
    for root, _, files in os.walk(moddir):
        for f in files:
            if ".ko" in f:
                found[f.split(".ko")[0].replace("-", "_")] = os.path.join(root, f)
    out = b""
    for d in ("bin", "sbin", "proc", "sys", "dev", "modules", "usr", "usr/bin", "usr/sbin"):
        out += cpio_entry(d, 0o40755)
    out += cpio_entry("bin/busybox", 0o100755, open(busybox, "rb").read())
    order = []
    for m in MODULES:
        p = found.get(m.replace("-", "_"))
        if not p:
            continue  # built in
        data = open(p, "rb").read()
        if p.endswith(".xz"):
            data = lzma.decompress(data)
        elif p.endswith(".gz"):
            data = gzip.decompress(data)
        name = os.path.basename(p).split(".ko")[0] + ".ko"
        out += cpio_entry(f"modules/{name}", 0o100644, data)
        order.append(name)
    out += cpio_entry("modules.order", 0o100644, "\n".join(order).encode() + b"\n")
    out += cpio_entry("init", 0o100755, INIT.encode())
    out += cpio_entry("TRAILER!!!", 0)
    tmp = path + f".{os.getpid()}"
    with open(tmp, "wb") as f:
        f.write(out)
    os.rename(tmp, path)
    return path


def make_scratch(path, size):
    with open(path, "wb") as f:
        f.truncate(size)
    run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,discard", path])


def forward(proc, deadline, stall):
    """Copies the job's output until the end.  Returns why it gave up, or None."""
    out = proc.stdout.fileno()
    while True:
        now = time.monotonic()
        if now >= deadline:
            why = "no end within the time limit"
            break
        ready, _, _ = select.select([out], [], [], min(stall, deadline - now))
        if not ready:
            if time.monotonic() < deadline:
                why = f"no output for {stall} s: the emulated host is stuck"
                break
            continue
        data = os.read(out, 65536)
        if not data:
            proc.wait()
            return None
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    proc.kill()
    proc.wait()
    return why


def catch_signals():
    def stop(signum, frame):
        for s in children.SIGNALS:
            signal.signal(s, signal.SIG_IGN)  # one is enough: it must not keep us from tidying up
        print(f"lab: ended by {signal.Signals(signum).name}", file=sys.stderr, flush=True)
        raise SystemExit(128 + signum)

    for s in children.SIGNALS:
        if signal.getsignal(s) != signal.SIG_IGN:
            signal.signal(s, stop)


def main():
    ap = argparse.ArgumentParser(prog="make lab", description=__doc__.split("\n")[0])
    ap.add_argument("--memory", type=int, default=6144, help="MiB of the emulated host")
    ap.add_argument("--cpus", type=int, default=2)
    ap.add_argument("--timeout", type=int, default=3600, help="seconds")
    ap.add_argument("--stall", type=int, default=900, help="seconds without any output after which it gives up")
    ap.add_argument("--scratch", help="keep the scratch disk in this file (made if missing) instead of a throw-away")
    ap.add_argument("--console", help="write the emulated host's console to this file")
    ap.add_argument("cmd", help="shell command, run in the current directory")
    args = ap.parse_args()
    if not shutil.which("qemu-system-x86_64"):
        die("qemu-system-x86_64 is missing: install qemu-system-x86")

    cache = cache_dir()
    vmlinuz, moddir = fetch_kernel(cache)
    initramfs = build_initramfs(cache, moddir)
    job = proc = None
    catch_signals()
    try:
        job = tempfile.mkdtemp(prefix="wslx-lab-")
        os.chmod(job, 0o711)
        scratch = args.scratch or os.path.join(job, "scratch.img")
        console = args.console or os.path.join(job, "console.log")
        share = os.path.join(job, "share")
        os.mkdir(share)
        if os.path.isfile(console) or not os.path.exists(console):  # not a terminal
            console_lock = children.lock(console)
            if console_lock is None:
                die(f"another lab writes to {console}")
        if not os.path.exists(scratch):
            make_scratch(scratch, 32 << 30)
        with open(os.path.join(share, "run"), "w") as f:
            f.write(RUN.format(cwd=shlex.quote(os.getcwd())))
        with open(os.path.join(share, "cmd"), "w") as f:
            for k, v in os.environ.items():
                if k.startswith("WSLX_") or k in ("CI", "TERM", "LANG"):
                    f.write(f"export {k}={shlex.quote(v)}\n")
            f.write(args.cmd + "\n")
        argv = ["qemu-system-x86_64", "-M", "q35,accel=tcg,kernel-irqchip=off", "-cpu", CPU,
                "-smp", str(args.cpus), "-m", str(args.memory), "-display", "none", "-nodefaults", "-no-reboot",
                "-serial", f"file:{console}",
                "-kernel", vmlinuz, "-initrd", initramfs,
                "-append", "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on",
                "-virtfs", "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap",
                "-virtfs", f"local,path={share},mount_tag=job,security_model=none",
                "-drive", f"file={scratch},format=raw,if=virtio,cache=unsafe,discard=unmap",
                "-nic", "user,model=virtio-net-pci",
                "-device", "virtio-rng-pci",
                "-device", "virtio-serial-pci", "-chardev", "stdio,id=out,signal=off",
                "-device", "virtserialport,chardev=out,name=out"]
        start = time.monotonic()
        # An open, silent stdin: at its end QEMU would call the port closed and block its writers.
        # A session of its own, so that Ctrl-C reaches this program first.
        proc = subprocess.Popen(children.tied(argv, "KILL"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        why = forward(proc, start + args.timeout, args.stall)
        if why:
            print(f"lab: {why}", file=sys.stderr)
            return 124
        try:
            status = int(open(os.path.join(share, "status")).read())
        except (OSError, ValueError):
            tail = open(console, errors="replace").read()[-2000:]
            print(f"lab: the emulated host ended without a result; its console:\n{tail}", file=sys.stderr)
            return 125
        print(f"lab: exit status {status} after {time.monotonic() - start:.1f} s", file=sys.stderr)
        return status
    finally:
        if proc and proc.poll() is None:
            proc.kill()
            proc.wait()
        if job:
            shutil.rmtree(job, ignore_errors=True)


sys.exit(main())
