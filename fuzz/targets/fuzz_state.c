/*
 * The descriptions in the registry: distro.json, config.json, image.json,
 * kernel.json.  What decodes must encode, decode again, and be the same.
 * The first byte chooses the file.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_mutator.h"
#include "manager/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return jm_mutate(data, size, max, seed, 1);
}

static void must(int good)
{
	if (!good)
		abort();
}

static void distro(const char *text, size_t n)
{
	static struct wslx_distro a, b;
	struct wslx_err err = { 0 };
	char *out;

	memset(&a, 0, sizeof(a));
	memset(&b, 0, sizeof(b));
	if (wslx_distro_decode(text, n, &a, &err) < 0) {
		must(err.msg[0]);
		return;
	}
	must(wslx_name_ok(a.name));
	/* More than WSLX_MEMORY_MAX is read, for it to be mended. */
	must(!a.settings.memory || (a.settings.memory >= WSLX_MEMORY_MIN && a.settings.memory <= INT64_MAX));
	must(a.settings.memory <= WSLX_MEMORY_MAX || wslx_settings_check(&a.settings, &err) < 0);
	must(a.settings.cpus <= WSLX_MAX_CPUS && a.settings.net.n_publish <= WSLX_MAX_PUBLISH);
	out = wslx_distro_encode(&a);
	must(out && wslx_distro_decode(out, strlen(out), &b, NULL) == 0);
	/* Text behind the terminating NUL may differ: compare what is written. */
	{
		char *again = wslx_distro_encode(&b);

		must(again && !strcmp(out, again));
		free(again);
	}
	free(out);
}

static void config(const char *text, size_t n)
{
	struct wslx_config a, b;
	char *out;

	if (wslx_config_decode(text, n, &a, NULL) < 0)
		return;
	out = wslx_config_encode(&a);
	must(out && wslx_config_decode(out, strlen(out), &b, NULL) == 0 && !strcmp(a.default_distro, b.default_distro));
	free(out);
}

static void image(const char *text, size_t n)
{
	static struct wslx_image a, b;
	char *out;

	if (wslx_image_decode(text, n, &a, NULL) < 0)
		return;
	out = wslx_image_encode(&a);
	must(out && wslx_image_decode(out, strlen(out), &b, NULL) == 0 && !strcmp(a.source, b.source) &&
	     a.disk_size == b.disk_size);
	free(out);
}

static void kernel(const char *text, size_t n)
{
	struct wslx_kernel_info a, b;
	char *out;

	if (wslx_kernel_decode(text, n, &a, NULL) < 0)
		return;
	must(memchr(a.version, 0, sizeof(a.version)) && memchr(a.source, 0, sizeof(a.source)));
	out = wslx_kernel_encode(&a);
	must(out && wslx_kernel_decode(out, strlen(out), &b, NULL) == 0 && !strcmp(a.version, b.version));
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const files[])(const char *text, size_t n) = { distro, config, image, kernel };

	if (size)
		files[data[0] % ARRAY_SIZE(files)]((const char *)data + 1, size - 1);
	return 0;
}
