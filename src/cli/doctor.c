/* doctor. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "manager/doctor.h"

static int print_json(const struct wslx_doctor *d, struct wslx_err *err)
{
	cleanup_free char *text = NULL;
	json_t *root = json_object(), *list = json_array();

	for (size_t i = 0; i < d->n; i++) {
		const struct wslx_check *c = &d->checks[i];
		json_t *o = json_object();

		json_object_set_new(o, "area", json_string(c->area));
		json_object_set_new(o, "name", json_string(c->name));
		json_object_set_new(o, "verdict", json_string(wslx_verdict_name(c->verdict)));
		json_object_set_new(o, "text", json_string(c->text));
		if (c->mend[0])
			json_object_set_new(o, "mend", json_string(c->mend));
		json_array_append_new(list, o);
	}
	json_object_set_new(root, "engine", json_string(d->engine));
	json_object_set_new(root, "works", json_boolean(d->engine_works));
	json_object_set_new(root, "checks", list);
	text = json_dumps(root, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	json_decref(root);
	if (!text)
		return wslx_err_sys(err, ENOMEM, "cannot report");
	puts(text);
	return d->engine_works ? 0 : CLI_FAILED;
}

int cli_doctor(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	struct wslx_doctor *d = malloc(sizeof(*d));
	int r = 0;

	if (!d)
		return wslx_err_sys(err, ENOMEM, "cannot examine");
	wslx_doctor_examine(c->m, o->fresh, d);
	if (o->json) {
		r = print_json(d, err);
		free(d);
		return r;
	}
	for (size_t i = 0; i < d->n; i++) {
		const struct wslx_check *k = &d->checks[i];

		printf("%-5s %-8s %-18s %s\n", wslx_verdict_name(k->verdict), k->area, k->name, k->text);
		if (k->mend[0])
			printf("%33s to mend it: %s\n", "", k->mend);
	}
	if (!d->engine_works)
		puts("\nNo machine can run here: no engine works.");
	else if (!d->has_kernel)
		printf("\nMachines can run here, on the %s engine; no kernel is installed yet: wslx install debian\n",
		       d->engine);
	else
		printf("\nMachines run here, on the %s engine.\n", d->engine);
	r = d->engine_works ? 0 : CLI_FAILED;
	free(d);
	return r;
}
