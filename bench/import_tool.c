/* The importer alone, for bench/import.py: import_tool ARCHIVE|- IMAGE [SIZE-MIB]. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/import.h"

int main(int argc, char **argv)
{
	struct wslx_import_result res;
	struct wslx_err err = { 0 };

	if (argc < 3) {
		fprintf(stderr, "usage: import_tool ARCHIVE|- IMAGE [SIZE-MIB]\n");
		return 2;
	}
	int in = strcmp(argv[1], "-") == 0 ? 0 : open(argv[1], O_RDONLY | O_CLOEXEC);
	int out = open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (in < 0 || out < 0) {
		perror(in < 0 ? argv[1] : argv[2]);
		return 1;
	}
	struct wslx_import_params p = {
		.in_fd = in,
		.in_name = argv[1],
		.out_fd = out,
		.size = argc > 3 ? strtoull(argv[3], NULL, 10) << 20 : 0,
		.no_sync = getenv("NO_SYNC") != NULL,
	};

	if (wslx_import(&p, &res, &err) < 0) {
		fprintf(stderr, "import_tool: %s\n", err.msg);
		return 1;
	}
	printf("%" PRIu64 " entries, %" PRIu64 " bytes\n", res.entries, res.data_bytes);
	return 0;
}
