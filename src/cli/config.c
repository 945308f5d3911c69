/* config, and set-default. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/kernels.h"

static void show(const struct wslx_distro *d)
{
	const struct wslx_settings *s = &d->settings;
	char net[WSLX_NET_TEXT], port[WSLX_PUBLISH_TEXT];

	wslx_net_format(&s->net, net);
	printf("engine=%s\n", wslx_engine_name(s->engine));
	printf("kernel=%s\n", s->kernel);
	/* Always a multiple of 2 MiB. */
	if (s->memory)
		printf("memory=%" PRIu64 "M\n", s->memory / WSLX_MIB);
	else
		printf("memory=\n");
	if (s->cpus)
		printf("cpus=%u\n", s->cpus);
	else
		printf("cpus=\n");
	printf("user=%s\n", s->user);
	printf("net=%s\n", net);
	for (size_t i = 0; i < s->net.n_publish; i++) {
		wslx_publish_format(&s->net.publish[i], port);
		printf("publish=%s\n", port);
	}
}

static int apply(struct cli *c, const char *word, struct wslx_settings *s, struct wslx_err *err)
{
	const char *eq = strchr(word, '=');
	char key[32], kernel[WSLX_NAME_MAX + 1];
	int r;

	if (!eq || (size_t)(eq - word) >= sizeof(key))
		return wslx_err_set(err, EINVAL, "'%s' is no KEY=VALUE; see `wslx config --help`", word);
	memcpy(key, word, (size_t)(eq - word));
	key[eq - word] = '\0';
	r = wslx_settings_set(s, key, eq + 1, err);
	if (r == 0 && !strcmp(key, "kernel") && s->kernel[0])
		r = wslx_kernel_choose(c->m, s->kernel, kernel, err);
	return r;
}

int cli_config(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_distro *d = malloc(sizeof(*d));
	cleanup_close int lock = d ? wslx_registry_lock(c->m, err) : -1;
	int r = d ? lock : wslx_err_sys(err, ENOMEM, "cannot read the settings");

	if (r >= 0)
		r = wslx_distro_find(c->m, o->pos[0], d, err);
	for (int i = 0; r == 0 && i < o->n_tail; i++)
		r = apply(c, o->tail[i], &d->settings, err);
	if (r == 0 && d->settings.net.n_publish && d->settings.net.mode != WSLX_NET_PASST)
		r = wslx_err_set(err, EINVAL, "ports can be published on the passt network only");
	if (r == 0 && o->n_tail)
		r = wslx_distro_save(c->m, d, err);
	else if (r == 0)
		show(d);
	free(d);
	return r;
}

int cli_set_default(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	return wslx_distro_set_default(c->m, o->pos[0], err);
}
