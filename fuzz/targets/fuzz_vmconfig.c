/*
 * The machine configuration: what decodes must keep its promises, encode, decode again, and be the same.  And what is
 * taken out of it, or out of a command line, by this file's other functions.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

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

/* Any text becomes a name that the kernel takes. */
static void check_hostname(const char *text)
{
	char name[WSLX_HOSTNAME_MAX + 1];
	size_t n;

	memset(name, '!', sizeof(name));
	wslx_hostname_from(text, name);
	n = strnlen(name, sizeof(name));
	must(n && n < sizeof(name) && name[0] != '-' && name[n - 1] != '-');
	must(strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == n);
}

/* What is taken for a number is one, and that one. */
static void check_mac(const char *text)
{
	uint8_t mac[6];
	char back[18];

	if (wslx_mac_parse(text, mac) < 0)
		return;
	snprintf(back, sizeof(back), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	must(!strcasecmp(back, text));
}

static void check_text(const char *text)
{
	enum wslx_engine e;

	check_hostname(text);
	check_mac(text);
	if (wslx_engine_parse(text, &e) == 0)
		must(!strcmp(wslx_engine_name(e), text));
	must(!wslx_region_name_ok(text) || (text[0] && strlen(text) < WSLX_GRANT_NAME_SIZE && !strpbrk(text, " /\n")));
}

static void check_portal(const struct wslx_vm_config *c)
{
	const struct wslx_portal_config *p = &c->portal;

	must(wslx_memory_fits(c->memory, p->window) && p->n_grants <= WSLX_MAX_GRANTS);
	must(p->window ? wslx_window_bytes_ok(p->window) : !p->n_grants);
	for (size_t i = 0; i < p->n_grants; i++)
		must(wslx_region_name_ok(p->grants[i].region) && wslx_region_name_ok(p->grants[i].as) &&
		     p->grants[i].socket[0] == '/');
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
	for (size_t i = 0; i < c->n_distros; i++) {
		must(wslx_name_ok(c->distros[i].name));
		check_text(c->distros[i].hostname);
	}
	check_text(c->net.mac);
	check_portal(c);
}

/* The input as it stands. */
static void check_as_text(const uint8_t *data, size_t size)
{
	char text[128];
	size_t n = size < sizeof(text) ? size : sizeof(text) - 1;

	if (n)
		memcpy(text, data, n);
	text[n] = '\0';
	check_text(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wslx_vm_config *a = NULL, *b = NULL;
	struct wslx_err err = { 0 };
	char *one, *two;

	check_as_text(data, size);
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
