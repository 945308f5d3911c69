/*
 * wslx-agent: PID 1 of the initramfs, and, under the name modprobe, the
 * kernel's helper for modules it asks for later.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/machine.h"

int main(int argc, char **argv)
{
	const char *name = argc > 0 ? strrchr(argv[0], '/') : NULL;

	name = name ? name + 1 : argc > 0 ? argv[0] : "";
	if (!strcmp(name, "modprobe"))
		return modprobe_main(argc, argv);
	if (getpid() == 1)
		machine_run();
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("wslx-agent " WSLX_VERSION);
		return 0;
	}
	fputs("wslx-agent is the init program of a WSLX machine; it does nothing elsewhere.\n", stderr);
	return 2;
}
