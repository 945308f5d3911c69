"""How much memory a monitor uses beyond its guest's."""


def rss_beyond_guest(pid, guest):
    """KiB of the process's own memory: all resident pages but those of the guest's RAM."""
    total = skipped = 0
    size = 0
    for line in open(f"/proc/{pid}/smaps"):
        f = line.split()
        if f[0] == "Size:":
            size = int(f[1])
        elif f[0] == "Rss:":
            total += int(f[1])
            if size * 1024 >= guest:
                skipped += int(f[1])
    return total - skipped


def private_kib(pid, guest):
    """Private (not shared with other processes) pages beyond the guest's RAM."""
    total = size = 0
    for line in open(f"/proc/{pid}/smaps"):
        f = line.split()
        if f[0] == "Size:":
            size = int(f[1])
        elif f[0] in ("Private_Clean:", "Private_Dirty:") and size * 1024 < guest:
            total += int(f[1])
    return total
