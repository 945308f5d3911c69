#!/usr/bin/env python3
"""Import of a root file system against `tar x` + `mke2fs -d`, side by side.

usage: bench/import.py [--build DIR] [--runs N] [--dir SCRATCH] [ARCHIVE]

Without an archive, a tree of the size and shape of a Debian root file system
is made up: mostly small files, some large ones, links, deep folders.  Each run
does both, alternating; medians and their ratio are printed, and one JSON line.
"""
import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time


def make_tree(path):
    rng = random.Random(1)
    noise = rng.randbytes(8 << 20)
    with tarfile.open(path, 'w', format=tarfile.GNU_FORMAT) as tar:
        def add(name, kind, data=b'', target=''):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
            info.mtime = 1700000000
            info.size = len(data)
            info.linkname = target
            tar.addfile(info, io.BytesIO(data))
        add('etc', tarfile.DIRTYPE)
        for d in range(900):
            folder = f'usr/share/d{d % 60}/e{d}'
            add(folder, tarfile.DIRTYPE)
            for f in range(9):
                size = min(int(rng.lognormvariate(8.4, 2.0)), 6 << 20)
                at = rng.randrange(len(noise) - size)
                add(f'{folder}/file{f}', tarfile.REGTYPE, noise[at:at + size])
            add(f'{folder}/link', tarfile.SYMTYPE, target='file0')


def once(command, cwd):
    start = time.monotonic()
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('--build', default='build')
    ap.add_argument('--runs', type=int, default=5)
    ap.add_argument('--dir', help='scratch folder on the file system to measure')
    ap.add_argument('archive', nargs='?')
    a = ap.parse_args()
    tool = os.path.abspath(os.path.join(a.build, 'bench', 'import_tool'))
    # Not part of the default build.
    subprocess.run(['ninja', '-C', a.build, '--quiet', 'bench/import_tool'], check=True, stdout=subprocess.DEVNULL)
    os.environ['PATH'] += ':/usr/sbin:/sbin'
    scratch = tempfile.mkdtemp(prefix='wslx-bench-', dir=a.dir)
    try:
        archive = os.path.abspath(a.archive) if a.archive else os.path.join(scratch, 'root.tar')
        if not a.archive:
            make_tree(archive)
        # The size in which both start with the same file system.
        size = 1 << 40
        ours, theirs = [], []
        for run in range(a.runs + 1):
            image, tree = os.path.join(scratch, 'image'), os.path.join(scratch, 'tree')
            t1 = once([tool, archive, image, str(size >> 20)], scratch)
            os.unlink(image)
            os.mkdir(tree)
            # Both end on the disk: the importer syncs its image, mke2fs too.
            t2 = once(['sh', '-c', f'tar xpf "$1" -C tree && mke2fs -q -F -t ext4 -d tree image {size >> 10}k',
                       'sh', archive], scratch)
            os.unlink(image)
            shutil.rmtree(tree)
            if run:  # the first one only warms the caches
                ours.append(t1)
                theirs.append(t2)
        m1, m2 = statistics.median(ours), statistics.median(theirs)
        print(f'import                {m1:8.3f} s')
        print(f'tar x + mke2fs -d     {m2:8.3f} s')
        print(f'ratio                 {m2 / m1:8.2f}   (budget: at least 3)')
        print(json.dumps({'name': 'import', 'wslx_s': round(m1, 4), 'tar_mke2fs_s': round(m2, 4),
                          'ratio': round(m2 / m1, 3), 'budget': 3, 'runs': a.runs}))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == '__main__':
    main()
