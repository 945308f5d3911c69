"""Networking through passt: out by TCP, UDP and DNS, in by --publish, repair after its death.  And over a TAP interface."""

import os
import signal
import socket
import socketserver
import struct
import subprocess
import threading

import pytest

from conftest import children_of, comm, free_port, wait_for
from test_lifecycle import control


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"you said " + self.rfile.readline())


@pytest.fixture
def tcp_server():
    srv = socketserver.ThreadingTCPServer(("0.0.0.0", 0), Echo)
    threading.Thread(target=srv.serve_forever, daemon=True).start()
    yield srv.server_address[1]
    srv.shutdown()
    srv.server_close()


def host_address():
    """An address of this host that a guest can reach (not loopback)."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("192.0.2.1", 9))
        return s.getsockname()[0]
    finally:
        s.close()


PY_TCP = ("import socket,sys; s=socket.create_connection((sys.argv[1], int(sys.argv[2])), 30); "
          "s.sendall(b'hello\\n'); print(s.makefile().readline().strip())")


def tcp_out(wslx, port):
    return wslx("-d", "debian", "-e", "python3", "-c", PY_TCP, host_address(), str(port))


def test_tcp_out(wslx, tcp_server):
    r = tcp_out(wslx, tcp_server)
    assert r.out.strip() == "you said hello", r.err


def test_udp_out(wslx):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 0))
    s.settimeout(60)

    def serve():
        data, peer = s.recvfrom(100)
        s.sendto(b"back " + data, peer)

    t = threading.Thread(target=serve)
    t.start()
    out = wslx.ok("-d", "debian", "-e", "python3", "-c",
                  "import socket,sys; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(30); "
                  "s.sendto(b'ping', (sys.argv[1], int(sys.argv[2]))); print(s.recv(100).decode())",
                  host_address(), str(s.getsockname()[1]))
    t.join()
    s.close()
    assert out == "back ping\n"


def test_resolv_conf_and_hosts(wslx):
    assert "nameserver" in wslx.sh("cat /etc/resolv.conf")
    hosts = wslx.sh("cat /etc/hosts")
    assert "127.0.0.1" in hosts and "localhost" in hosts
    name = wslx.sh("hostname").strip()
    assert name in hosts


def test_dns_reaches_the_hosts_resolver(wslx):
    """Any answer, even 'no such name', shows that the query travelled."""
    out = wslx("-d", "debian", "-e", "python3", "-c",
               "import socket,struct\n"
               "ns=[l.split()[1] for l in open('/etc/resolv.conf') if l.startswith('nameserver')][0]\n"
               "q=struct.pack('>HHHHHH',7,0x100,1,0,0,0)+b'\\x06debian\\x03org\\x00'+struct.pack('>HH',1,1)\n"
               "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(30); s.sendto(q,(ns,53))\n"
               "print(struct.unpack('>H', s.recv(512)[:2])[0])").out
    assert out == "7\n"


def test_publish(wslx):
    """The server waits for its client to close: the machine, and what its kernel had not sent yet, goes with it.
    Only this host reaches a port for which no address was given."""
    port, public = free_port(), free_port()
    p = wslx.popen("run", "debian", "--publish", f"{port}:8080", "--publish", f"{host_address()}:{public}:8080",
                   "--", "exec python3 -c \"import socket; "
                   "s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
                   "s.bind(('0.0.0.0', 8080)); s.listen(); print('up', flush=True)\n"
                   "for i in 1, 2: c,_=s.accept(); c.sendall(b'served ' + c.recv(100)); c.recv(1)\"")
    assert p.stdout.readline() == b"up\n", p.stderr.read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host_address(), port), 10)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", public), 10)
    for address in (host_address(), public), ("127.0.0.1", port):
        with socket.create_connection(address, 60) as c:
            c.sendall(b"it")
            assert c.recv(100) == b"served it"
    assert p.wait(120) == 0


def test_passt_death_is_repaired(wslx, tcp_server):
    wslx.sh("true")
    passt = passts(wslx.vmm_pid())
    assert passt
    boot_id = wslx.sh("cat /proc/sys/kernel/random/boot_id")
    for p in passt:
        os.kill(p, signal.SIGKILL)
    wait_for("the network works again", lambda: tcp_out(wslx, tcp_server).out.strip() == "you said hello")
    assert wslx.sh("cat /proc/sys/kernel/random/boot_id") == boot_id


def passts(pid):
    return [p for p in children_of(pid) if "passt" in comm(p)]


def test_published_port_survives_passts_death(wslx):
    """The new passt knows nothing of the guest, which says nothing of its own accord: it has to be made to.  The
    server must not wait for connections that died with the old one."""
    port = free_port()
    run = os.path.join(wslx.home, "run")
    before = set(os.listdir(run))
    p = wslx.popen("run", "debian", "--publish", f"{port}:8080", "--", "exec python3 -c \"import socket; "
                   "s=socket.socket(); s.bind(('0.0.0.0', 8080)); s.listen(); print('up', flush=True)\n"
                   "while True:\n c,_=s.accept(); c.settimeout(5)\n"
                   " try:\n  d=c.recv(100); c.sendall(b'served '+d)\n  if d == b'last': c.settimeout(60); c.recv(1); break\n"
                   " except OSError: pass\n c.close()\"")
    assert p.stdout.readline() == b"up\n", p.stderr.read()
    machine, = [m for m in set(os.listdir(run)) - before if m.startswith("run-")]
    supervisor = control(wslx, machine, "io.wslx.Machine.Info")["parameters"]["pid"]

    def served(what, limit=5):
        try:
            with socket.create_connection(("127.0.0.1", port), limit) as c:
                c.sendall(what)
                return c.recv(100) == b"served " + what
        except OSError:
            return False

    assert served(b"first")
    old = passts(supervisor)
    for child in old:
        os.kill(child, signal.SIGKILL)
    wait_for("another passt", lambda: set(passts(supervisor)) - set(old))
    wait_for("the port is served again", lambda: served(b"again"))
    assert served(b"last", 60)
    assert p.wait(120) == 0


def test_net_none(wslx, mini):
    out = wslx.ok("run", mini, "--net", "none", "--", "ip -o link | wc -l")
    assert out.strip() == "1"


# ---- TAP: an interface of the host's; addresses are the user's affair

HOST, GUEST, LEN = "198.18.77.1", "198.18.77.2", 30


def cannot_make_taps():
    if os.geteuid() != 0:
        return "needs root to make a TAP interface"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as e:
        return f"no TAP interfaces here: {e}"
    return None


def ip(*argv):
    subprocess.run(["ip", *argv], check=True)


@pytest.fixture
def tap():
    name = f"wslx{os.getpid() % 100000}"
    ip("tuntap", "add", "dev", name, "mode", "tap")
    try:
        ip("addr", "add", f"{HOST}/{LEN}", "dev", name)
        ip("link", "set", name, "up")
        yield name
    finally:
        ip("link", "del", name)


# The guest's half: an address, a connection out, then one connection in, each with a megabyte of echo.
SCRIPT = f"""set -e
dev=$(ls /sys/class/net | grep -v lo)
ip addr add {GUEST}/{LEN} dev $dev
ip link set $dev up
exec python3 -c '
import socket, sys
def whole(s):
    data = b""
    while more := s.recv(65536):
        data += more
    return data
out = socket.create_connection(("{HOST}", int(sys.argv[1])), 60)
out.sendall(b"o" * (1 << 20))
out.shutdown(socket.SHUT_WR)
print(len(whole(out)), flush=True)
s = socket.create_server(("{GUEST}", 8080))
print("listening", flush=True)
c, peer = s.accept()
data = whole(c)
c.sendall(data)
c.shutdown(socket.SHUT_WR)
print(peer[0], len(data), flush=True)
c.recv(1)
sys.stdin.read()
' "$0"
"""


def whole(s):
    data = b""
    while more := s.recv(65536):
        data += more
    return data


def echo_once(srv):
    c, _ = srv.accept()
    with c:
        c.sendall(whole(c))


def ping(address):
    """An ICMP echo request and its answer."""
    data = struct.pack(">HH", os.getpid() & 0xffff, 1) + b"wslx"
    total = sum(struct.unpack(">4H", data)) + 0x0800
    total = (total & 0xffff) + (total >> 16)
    request = struct.pack(">BBH", 8, 0, ~(total + (total >> 16)) & 0xffff) + data
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.settimeout(30)
        s.sendto(request, (address, 0))
        while True:
            packet, peer = s.recvfrom(1500)
            if peer[0] == address and packet[20] == 0 and packet[24:] == data:
                return True


@pytest.mark.skipif(cannot_make_taps() is not None, reason=str(cannot_make_taps()))
def test_tap(wslx, tap):
    """Connections both ways, a ping; one machine an interface."""
    with socket.create_server((HOST, 0)) as srv:
        threading.Thread(target=echo_once, args=(srv,), daemon=True).start()
        p = wslx.popen("run", "debian", "--net", f"tap:{tap}", "-e", "/bin/sh", "-c", SCRIPT,
                       str(srv.getsockname()[1]), stdin=subprocess.PIPE)
        try:
            assert p.stdout.readline() == b"%d\n" % (1 << 20), p.stderr.read()
            assert p.stdout.readline() == b"listening\n", p.stderr.read()
            with socket.create_connection((GUEST, 8080), 60) as c:
                c.sendall(b"i" * (1 << 20))
                c.shutdown(socket.SHUT_WR)
                assert whole(c) == b"i" * (1 << 20)
            assert p.stdout.readline() == b"%s %d\n" % (HOST.encode(), 1 << 20)
            assert ping(GUEST)
            wslx.fails("run", "debian", "--net", f"tap:{tap}", "--", "true", needle=tap)
        finally:
            p.communicate(timeout=120)
    assert p.returncode == 0
