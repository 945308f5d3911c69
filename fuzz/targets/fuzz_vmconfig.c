/* The machine configuration: what decodes must keep its promises, encode, decode again, and be the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "json_mutator.h"
#include "proto/vmconfig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return jm_mutate(data, size, max, seed, 0);
}

static void must(bool good)
{
	if (!good)
		abort();
}

static void check(const struct wslx_vm_config *c)
{
	must(wslx_name_ok(c->name));
	must(c->engine == WSLX_ENGINE_KVM || c->engine == WSLX_ENGINE_TCG);
	must(c->cpus >= 1 && c->cpus <= WSLX_MAX_CPUS);
	must(c->memory && c->memory % (2 * WSLX_MIB) == 0);
	must(c->n_disks <= WSLX_MAX_DISKS && c->n_distros <= WSLX_MAX_DISTROS);
	must(c->net.n_publish <= WSLX_MAX_PUBLISH);
	must(c->runtime_dir[0] == '/' && c->state_dir[0] == '/' && c->kernel[0] == '/');
	for (size_t i = 0; i < c->n_distros; i++)
		must(wslx_name_ok(c->distros[i].name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wslx_vm_config *a = NULL, *b = NULL;
	struct wslx_err err = { 0 };
	char *one, *two;

	if (wslx_vm_config_decode((const char *)data, size, &a, &err) < 0) {
		must(err.msg[0]);
		return 0;
	}
	check(a);
	must(wslx_vm_config_encode(a, &one) == 0);
	must(wslx_vm_config_decode(one, strlen(one), &b, NULL) == 0);
	must(wslx_vm_config_encode(b, &two) == 0);
	must(!strcmp(one, two));
	free(one);
	free(two);
	wslx_vm_config_free(a);
	wslx_vm_config_free(b);
	return 0;
}
