#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

void cli_help_verb(const struct cli_verb *v)
{
	printf("Usage: wslx %s%s%s\n%c%s.\n", v->name, *v->name ? " " : "", v->args,
	       v->summary[0] >= 'a' && v->summary[0] <= 'z' ? v->summary[0] - 'a' + 'A' : v->summary[0],
	       v->summary + 1);
	if (v->details)
		printf("\n%s", v->details);
	if (v->n_opts)
		printf("\nOptions:\n");
	for (size_t i = 0; i < v->n_opts; i++) {
		const struct cli_opt *o = &v->opts[i];
		char left[64];
		int n = 0;

		if (o->letter)
			n = snprintf(left, sizeof(left), "-%c, ", o->letter);
		n += snprintf(left + n, sizeof(left) - (size_t)n, "--%s%s%s", o->name, o->arg ? " " : "",
			      o->arg ? o->arg : "");
		printf(n > 31 ? "  %s\n  %-32s%s\n" : "  %-32s%s%s\n", left, n > 31 ? "" : o->help,
		       n > 31 ? o->help : "");
	}
	if (v->wsl)
		printf("\nAlso spelled: wslx %s%s%s\n", v->wsl, v->wsl2 ? ", wslx " : "", v->wsl2 ? v->wsl2 : "");
}

void cli_help_all(void)
{
	printf("Usage: wslx %s\n"
	       "       wslx VERB ...\n"
	       "Run Linux distributions in micro-VMs.\n\n"
	       "Without a verb: %s.\n\nVerbs:\n",
	       cli_exec_verb.args, cli_exec_verb.summary);
	for (size_t i = 0; i < cli_n_verbs; i++)
		if (!cli_verbs[i].hidden)
			printf("  %-14s%s\n", cli_verbs[i].name, cli_verbs[i].summary);
	printf("\nOptions without a verb:\n");
	for (size_t i = 0; i < cli_exec_verb.n_opts; i++) {
		const struct cli_opt *o = &cli_exec_verb.opts[i];
		char left[64];

		snprintf(left, sizeof(left), "%c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
			 o->letter ? ", " : "  ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		printf(strlen(left) > 31 ? "  %s\n  %-32s%s\n" : "  %-32s%s%s\n", left,
		       strlen(left) > 31 ? "" : o->help, strlen(left) > 31 ? o->help : "");
	}
	printf("\nCMD of one word is given to the user's shell; of several words, each reaches the program as it is.\n"
	       "`wslx VERB --help` says more about a verb; so does wslx(1).\n"
	       "Start with: wslx install debian\n");
}

int cli_help(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	const struct cli_verb *v;

	if (!o->n_pos) {
		cli_help_all();
		return 0;
	}
	v = cli_find_verb(o->pos[0]);
	if (!v)
		return wslx_err_set(err, EINVAL, "unknown verb '%s'; see `wslx --help`", o->pos[0]);
	cli_help_verb(v);
	return 0;
}

int cli_version(struct cli *c, const struct cli_opts *o, struct wslx_err *err)
{
	printf("WSLX version: %s\n", WSLX_VERSION);
	return 0;
}
