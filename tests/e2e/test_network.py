"""Networking through passt: out by TCP, UDP and DNS, in by --publish, repair after its death."""

import os
import signal
import socket
import socketserver
import threading

import pytest

from conftest import children_of, wait_for
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


def free_port():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
    s.close()
    return port


def test_publish(wslx):
    """The server waits for its client to close: the machine, and what its kernel had not sent yet, goes with it."""
    port = free_port()
    p = wslx.popen("run", "debian", "--publish", f"{port}:8080", "--", "exec python3 -c \"import socket; "
                   "s=socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
                   "s.bind(('0.0.0.0', 8080)); s.listen(); print('up', flush=True); c,_=s.accept(); "
                   "c.sendall(b'served ' + c.recv(100)); c.recv(1)\"")
    assert p.stdout.readline() == b"up\n", p.stderr.read()
    with socket.create_connection(("127.0.0.1", port), 60) as c:
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
    return [p for p in children_of(pid) if "passt" in open(f"/proc/{p}/comm").read()]


def test_published_port_survives_passts_death(wslx):
    """The new passt knows nothing of the guest, which says nothing of its own accord: it has to be made to."""
    port = free_port()
    p = wslx.popen("run", "debian", "--publish", f"{port}:8080", "--", "exec python3 -c \"import socket; "
                   "s=socket.socket(); s.bind(('0.0.0.0', 8080)); s.listen(); print('up', flush=True)\n"
                   "while True:\n c,_=s.accept(); d=c.recv(100); c.sendall(b'served '+d); c.recv(1); c.close()\n"
                   " if d == b'last': break\"")
    assert p.stdout.readline() == b"up\n", p.stderr.read()
    machine, = [m for m in os.listdir(os.path.join(wslx.home, "run")) if m.startswith("run-")]
    supervisor = control(wslx, machine, "io.wslx.Machine.Info")["parameters"]["pid"]

    def served(what):
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as c:
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
    assert served(b"last")
    assert p.wait(120) == 0


def test_net_none(wslx, mini):
    out = wslx.ok("run", mini, "--net", "none", "--", "ip -o link | wc -l")
    assert out.strip() == "1"
