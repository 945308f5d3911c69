#!/usr/bin/python3
"""libportal as others use it: from where it was installed, through pkg-config, as a shared and a static library, with
gcc, g++ and musl-gcc.  usage: installed.py SOURCE BUILD"""

import os
import subprocess
import sys
import tempfile

source, build = sys.argv[1:]
examples = os.path.join(source, "examples/portal")

CXX = """
#include <cerrno>
#include <wslx/portal.h>
int main() {
	struct portal_attach a = {};
	portal *p = nullptr;
	a.size = sizeof(a);
	a.region = "none";
	return portal_attach(&a, &p) == -ENOENT ? 0 : 1;
}
"""


def run(*argv, **kw):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, **kw).stdout


def flags(package, root, *what):
    pc = run("find", root, "-name", package + ".pc").strip()
    assert pc, f"{package}.pc is not installed"
    env = dict(os.environ, PKG_CONFIG_SYSROOT_DIR=root, PKG_CONFIG_LIBDIR=os.path.dirname(pc))
    return run("pkg-config", *what, package, env=env).split()


with tempfile.TemporaryDirectory(prefix="portal-installed-") as tmp:
    root = os.path.join(tmp, "root")
    run("meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", root)
    shared = flags("portal", root, "--cflags", "--libs")
    static = flags("portal", root, "--static", "--cflags", "--libs")
    musl = flags("portal-musl", root, "--cflags", "--libs")
    libdir = next(f[2:] for f in shared if f.startswith("-L"))
    env = dict(os.environ, LD_LIBRARY_PATH=libdir, WSLX_HOME=tmp)

    warn = ["-Wall", "-Wextra", "-Werror"]
    for kind, head, tail in (("shared", ["gcc", *warn], shared), ("static", ["gcc", "-static", *warn], static),
                             ("musl", ["musl-gcc", "-static", *warn], musl)):
        programs = [os.path.join(tmp, f"{kind}-{name}") for name in ("broker", "server", "client", "records")]
        for path in programs:
            run(*head, os.path.join(examples, path.rsplit("-", 1)[1] + ".c"), "-o", path, *tail)
        run(sys.executable, os.path.join(source, "tests/portal/example.py"), *programs, env=env)

    with open(os.path.join(tmp, "check.cc"), "w") as f:
        f.write(CXX)
    run("g++", "-std=c++11", *warn, os.path.join(tmp, "check.cc"), "-o", os.path.join(tmp, "check"), *shared)
    run(os.path.join(tmp, "check"), env=env)

    exported = run("nm", "-D", "--defined-only", os.path.join(libdir, "libportal.so")).split("\n")
    strange = [line for line in exported if line and " A " not in line and " portal_" not in line]
    assert not strange, strange
