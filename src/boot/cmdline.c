/* The kvm engine's kernel command line. */
#include "boot/boot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Why each is there.  The kernel takes the last of several, so what a user
 * adds behind them wins.
 *
 *   console=ttyS0          the only console that works from the first line to a panic
 *   loglevel=6             each character costs exits: a chatty boot takes longer to print than to run.
 *                          Notices are shown (the kernel's version, its command line), all the rest is not
 *   panic=-1               reset at once: the machine reports the panic with its last console lines
 *   reboot=a               by ACPI's reset register; with reduced hardware Linux would try EFI and the BIOS first
 *   8250.nr_uarts=1        there is one: do not probe three more
 *   pci=noearly            no scan for boards with known defects
 *   tsc=reliable           KVM keeps the vCPUs' TSCs in step: no 20 ms check for each CPU brought up
 *   swiotlb=noforce        no device needs bounce buffers: keep their 64 MiB
 *   rcupdate.rcu_expedited=1  module loading and mounting wait for grace periods dozens of times
 *   cryptomgr.notests      ciphers that we do not choose need no self-test at each boot
 *   net.ifnames=0          the interface is eth0 for every distro
 *
 * No `i8042.` options: the FADT says that there is none, so it is not probed.
 */
static const char defaults[] = "console=ttyS0 loglevel=6 panic=-1 reboot=a 8250.nr_uarts=1 pci=noearly tsc=reliable "
			       "swiotlb=noforce rcupdate.rcu_expedited=1 cryptomgr.notests net.ifnames=0";

int wslx_cmdline_build(const char *extra, char **ret, struct wslx_err *err)
{
	char *s;
	int n;

	if (!extra)
		extra = "";
	for (const char *c = extra; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			return wslx_err_set(err, EINVAL, "the kernel command line holds a control character");
	n = asprintf(&s, "%s%s%s", defaults, *extra ? " " : "", extra);
	if (n < 0)
		return -ENOMEM;
	if (n >= WSLX_CMDLINE_SIZE) {
		free(s);
		return wslx_err_set(err, E2BIG, "the kernel command line has %d characters, at most %d fit", n,
				    WSLX_CMDLINE_SIZE - 1);
	}
	*ret = s;
	return 0;
}
