#!/usr/bin/python3
"""A Portal client from docs/portal.md and Python's standard library alone; exchanges records with peer.c.

usage: client.py BROKER PEER [WSLX], the latter for a region that is quiesced meanwhile

Python has no fences and no futex.  It needs neither: stores are single aligned words, which this machine shows in order;
it wakes the peer's event through the broker after each record, whether the peer sleeps or not, and waits by looking
again.  Its one thread comes to rest where it waits and before it publishes.
"""

import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

SEG = 1 << 21
MSG = struct.Struct("<IIiIIIIIIIIIQ48s24x")
HELLO, WELCOME, ARENA, DONE, SYNC, KICK = 1, 2, 3, 4, 5, 6
OFFER, OPEN = 1, 2


def fnv(name):
    h = 0xcbf29ce484222325
    for b in name:
        h = (h ^ b) * 0x100000001b3 & (1 << 64) - 1
    return h


class Portal:
    """attach: without it only looks on, and keeps no quiesce waiting."""

    def __init__(self, path, name, attach=True):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.sock.connect(path)
        self.arenas = {}
        self.send(HELLO, version=1, kind=1, segments=2, name=name)
        w = self.recv()[0]
        assert w[0] == WELCOME and w[2] == 0, w
        self.self, self.generation = w[3], w[12]
        self.answer()
        own = next(a for a in self.arenas.values() if a["owner"] == self.self)
        self.own, self.base = own["map"], own["first"] * SEG
        self.host = self.arenas[0]["map"]
        magic, version, _, shift, _, features = struct.unpack_from("<QIIIIQ", self.host, 0)
        assert magic == 0x4c545250584c5357 and version == 1 and shift == 21 and features == 0
        self.slots, = struct.unpack_from("<I", self.host, 108)
        self.parts, self.table, self.names = struct.unpack_from("<QQQ", self.host, 112)
        self.index, self.places = struct.unpack_from("<QI", self.host, 136)
        # The control area: magic last field first would do as well, nobody looks before state is 1.
        struct.pack_into("<QIIQ", self.own, 0, 0x4c525443584c5357, 1, 0, self.generation)
        if attach:
            self.put32(12, 1)
            # A system call that takes locks is the barrier between this and the look at quiesce.
            self.kick(0)
            self.rest()

    def rest(self):
        """Before whatever is published: while the region is quiesced nothing is."""
        q = self.quiesced()
        if q & 1:
            self.put32(68, q)
            self.kick(0)
            until(lambda: not self.quiesced() & 1)

    def quiesced(self):
        return memoryview(self.host)[260:264].cast("I")[0]

    def until(self, fn):
        def look():
            self.rest()
            return fn()

        return until(look)

    def send(self, op, index=0, version=0, kind=0, segments=0, name=b""):
        self.sock.send(MSG.pack(op, version, 0, index, kind, 0, segments, 0, 0, 0, 0, 0, 0, name))

    def recv(self):
        data, fds, _, _ = socket.recv_fds(self.sock, MSG.size, 1)
        assert len(data) == MSG.size
        return MSG.unpack(data), fds

    def answer(self):
        """ARENA messages until DONE."""
        while True:
            m, fds = self.recv()
            if m[0] == DONE:
                return
            assert m[0] == ARENA
            a = {"first": m[7], "segments": m[6], "owner": m[8], "life": m[12], "access": m[10], "map": None}
            if fds:
                prot = mmap.PROT_READ | (mmap.PROT_WRITE if m[10] == 2 else 0)
                a["map"] = mmap.mmap(fds[0], m[6] * SEG, mmap.MAP_SHARED, prot)
                os.close(fds[0])
            self.arenas[m[3]] = a

    def sync(self):
        self.send(SYNC)
        self.answer()

    def kick(self, to):
        self.send(KICK, index=to)

    # Words in the own arena.
    def put32(self, off, v):
        memoryview(self.own)[off:off + 4].cast("I")[0] = v

    def put64(self, off, v):
        memoryview(self.own)[off:off + 8].cast("Q")[0] = v

    def peer(self, off, n):
        """Bytes at a region offset."""
        for a in self.arenas.values():
            if a["map"] and a["first"] * SEG <= off and off + n <= (a["first"] + a["segments"]) * SEG:
                return memoryview(a["map"])[off - a["first"] * SEG:][:n]
        raise KeyError(off)

    def read_slot(self, slot):
        off = self.names + 128 * slot
        while True:
            e = bytes(self.host[off:off + 128])
            seq = struct.unpack_from("<I", e)[0]
            if not seq & 1 and struct.unpack_from("<I", self.host, off)[0] == seq:
                return e

    def lookup(self, name):
        h = fnv(name)
        while True:
            before, = struct.unpack_from("<I", self.host, 276)
            at = h % self.places
            while True:
                v, = struct.unpack_from("<I", self.host, self.index + 4 * at)
                if v == 0:
                    break
                slot = (v & 0xffffff) - 1
                if v >> 24 == h >> 56 and slot < self.slots:
                    e = self.read_slot(slot)
                    if struct.unpack_from("<I", e, 4)[0] == 1 and e[8:56].rstrip(b"\0") == name:
                        kind, owner, _, generation, tag = struct.unpack_from("<IIQII", e, 56)
                        return {"slot": slot, "kind": kind, "owner": owner, "generation": generation, "tag": tag}
                at = (at + 1) % self.places
            if not before & 1 and struct.unpack_from("<I", self.host, 276)[0] == before:
                return None


def until(fn, seconds=20):
    end = time.monotonic() + seconds
    while not (v := fn()):
        assert time.monotonic() < end, "nothing came"
        os.sched_yield()
    return v


class Channel:
    """Record rings of 4 KiB: our tx block at 1 MiB of the own arena, our rx block behind it, data one page further."""

    TX, RX, DATA, CAP = 0x100000, 0x100080, 0x101000, 4096

    def __init__(self, p, name):
        self.p = p
        s = p.until(lambda: p.lookup(name))
        p.sync()
        self.to = s["owner"]
        b = p.base
        struct.pack_into("<IIQQ", p.own, self.TX, 0x58544c57, 1, self.CAP, b + self.DATA)
        struct.pack_into("<II", p.own, self.RX, 0x58524c57, 1)
        life = (p.generation << 20) + 1 << 8 | OFFER
        struct.pack_into("<IIQIIQQ", p.own, 4096 + 8, self.to, 0, 0, s["slot"], s["generation"], b + self.TX, b + self.RX)
        p.put64(4096, life)
        p.put32(72, 1)  # links_seq
        p.kick(self.to)
        self.link = p.until(lambda: self.find(life))
        self.tail_at = self.link["rx"] + 64
        tx = p.peer(self.link["tx"], 128)
        _, _, self.cap, data = struct.unpack_from("<IIQQ", tx)
        self.data = p.peer(data, self.cap)
        self.head_word = tx[64:72].cast("Q")
        self.tail_word = p.peer(self.tail_at, 8).cast("Q")
        self.head = self.tail = 0

    def find(self, life):
        arena, = struct.unpack_from("<I", self.p.host, self.p.parts + 256 * self.to + 16)
        base = self.p.arenas[arena]["first"] * SEG
        for i in range(256):
            l, peer, peer_link, peer_life, _, _, tx, rx = struct.unpack("<QIIQIIQQ", self.p.peer(base + 4096 + 64 * i, 48))
            if l & 0xff == OPEN and peer == self.p.self and peer_link == 0 and peer_life == life:
                return {"tx": tx, "rx": rx}
        return None

    def send(self, type, payload):
        size = 8 + len(payload) + 7 & ~7
        end = self.CAP - self.head % self.CAP
        pad = end if size > end else 0
        self.p.until(lambda: self.head + pad + size - self.tail_word[0] <= self.CAP)
        if pad:
            struct.pack_into("<II", self.p.own, self.DATA + self.head % self.CAP, 0xffffffff, 0)
            self.head += pad
        at = self.DATA + self.head % self.CAP
        struct.pack_into("<II", self.p.own, at, len(payload), type)
        self.p.own[at + 8:at + 8 + len(payload)] = payload
        self.head += size
        self.p.put64(self.TX + 64, self.head)
        self.p.kick(self.to)

    def recv(self):
        self.p.until(lambda: self.head_word[0] != self.tail)
        at = self.tail % self.cap
        length, type = struct.unpack_from("<II", self.data, at)
        if length == 0xffffffff:
            self.tail += self.cap - at
            return self.recv()
        assert length <= self.cap // 2
        payload = bytes(self.data[at + 8:at + 8 + length])
        self.tail += 8 + length + 7 & ~7
        self.p.put64(self.RX + 64, self.tail)
        self.p.kick(self.to)
        return type, payload


def echoed(c, i):
    text = b"record %d " % i * (1 + i % 39)
    c.send(i, text)
    assert c.recv() == (i + 1, text.upper()), i


def several(broker_path, peer_path, path):
    broker = subprocess.Popen([broker_path, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert broker.stdout.readline() == "ready\n"
    peer = subprocess.Popen([peer_path, path])
    try:
        c = Channel(Portal(path, b"python"), b"echo")
        for i in range(2000):
            echoed(c, i)
        # Several on their way at once.
        for i in range(8):
            c.send(i, b"abc" * (i + 1))
        for i in range(8):
            assert c.recv() == (i + 1, b"ABC" * (i + 1))
        c.send(0, b"")
        assert peer.wait(timeout=20) == 0
    finally:
        peer.kill()
        broker.stdin.close()
        assert broker.wait(timeout=20) == 0


def quiesced(wslx, peer_path, home):
    """It comes to rest in the middle of an exchange, its arena does not change then, and it goes on."""
    def w(*argv):
        subprocess.run([wslx, "portal", *argv], env=dict(os.environ, WSLX_HOME=home), stdout=subprocess.DEVNULL,
                       timeout=60, check=True)

    def between(c, count):
        try:
            for _ in range(10):
                before = count[0]
                until(lambda: count[0] > before + 20)
                w("quiesce", "example", "--timeout", "20")
                own, before = c.p.own[:], count[0]
                w("stat", "example", "--json")
                assert c.p.own[:] == own and count[0] == before
                w("resume", "example")
        except BaseException as e:
            failed.append(e)
        finally:
            over.set()

    failed, over, count = [], threading.Event(), [0]
    w("create", "example")
    path = os.path.join(home, "run/portal/example.sock")
    peer = subprocess.Popen([peer_path, path])
    try:
        c = Channel(Portal(path, b"python"), b"echo")
        other = threading.Thread(target=between, args=(c, count))
        other.start()
        while not over.is_set():
            echoed(c, count[0])
            count[0] += 1
        other.join()
        if failed:
            raise failed[0]
        c.send(0, b"")
        assert peer.wait(timeout=20) == 0
    finally:
        peer.kill()
        w("remove", "example")


def main():
    broker_path, peer_path, *wslx = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="portal-python-") as tmp:
        several(broker_path, peer_path, os.path.join(tmp, "sock"))
        if wslx:
            quiesced(wslx[0], peer_path, tmp)


if __name__ == "__main__":
    main()
