#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define MEMBER(o, opt, type) ((type *)(void *)((char *)(o) + (opt)->offset))

/* "list", or what the user typed for it, in messages. */
static const char *spell(const struct cli_verb *v)
{
	return v->name;
}

static int hint(const struct cli_verb *v, struct wslx_err *err, const char *what, const char *word)
{
	if (v == &cli_exec_verb)
		return wslx_err_set(err, EINVAL, "%s '%s'; see `wslx --help`", what, word);
	return wslx_err_set(err, EINVAL, "%s '%s' for `wslx %s`; see `wslx %s --help`", what, word, spell(v), spell(v));
}

static int unknown_option(const struct cli_verb *v, struct wslx_err *err, const char *word)
{
	const char *answer = cli_absent_option(v, word);

	if (answer)
		return wslx_err_set(err, EOPNOTSUPP, "there is no %s here: %s", word, answer);
	return hint(v, err, "unknown option", word);
}

static const struct cli_opt *find_long(const struct cli_verb *v, const char *name, size_t n)
{
	for (size_t i = 0; i < v->n_opts; i++)
		if (strlen(v->opts[i].name) == n && !memcmp(v->opts[i].name, name, n))
			return &v->opts[i];
	return NULL;
}

static const struct cli_opt *find_letter(const struct cli_verb *v, char letter)
{
	for (size_t i = 0; i < v->n_opts; i++)
		if (v->opts[i].letter == letter)
			return &v->opts[i];
	return NULL;
}

struct parse {
	const struct cli_verb *v;
	int argc, i;
	const char *const *argv;
	struct cli_opts *o;
	bool stop; /* the rest is the command */
	struct wslx_err *err;
};

/* inline_value: what followed '=', NULL = nothing. */
static int take_option(struct parse *p, const struct cli_opt *opt, const char *word, const char *inline_value)
{
	const char *value = inline_value;

	if (opt->kind == CLI_FLAG || opt->kind == CLI_STOP) {
		if (inline_value)
			return hint(p->v, p->err, "there is no value to give to", word);
		*MEMBER(p->o, opt, bool) = true;
		p->stop = opt->kind == CLI_STOP;
		return 0;
	}
	if (!value) {
		if (p->i >= p->argc)
			return wslx_err_set(p->err, EINVAL, "'%s' needs a value: %s %s", word, word, opt->arg);
		value = p->argv[p->i++];
	}
	if (opt->kind == CLI_TEXT) {
		*MEMBER(p->o, opt, const char *) = value;
		return 0;
	}
	if (p->o->n_publish == CLI_PUBLISH_MAX)
		return wslx_err_set(p->err, E2BIG, "'%s' is given more than %d times", word, CLI_PUBLISH_MAX);
	p->o->publish[p->o->n_publish++] = value;
	return 0;
}

static int take_long(struct parse *p, const char *word)
{
	const char *name = word + 2, *eq = strchr(name, '=');
	const struct cli_opt *opt = find_long(p->v, name, eq ? (size_t)(eq - name) : strlen(name));

	if (!opt && !strcmp(name, "help")) {
		p->o->help = true;
		return 0;
	}
	return opt ? take_option(p, opt, word, eq ? eq + 1 : NULL) : unknown_option(p->v, p->err, word);
}

/* "-v", or several flags in one word. */
static int take_letters(struct parse *p, const char *word)
{
	for (const char *c = word + 1; *c; c++) {
		const struct cli_opt *opt = find_letter(p->v, *c);
		int r;

		if (!opt && *c == 'h') {
			p->o->help = true;
			continue;
		}
		if (!opt || (opt->kind != CLI_FLAG && c != word + 1))
			return unknown_option(p->v, p->err, word);
		if (opt->kind != CLI_FLAG && c[1])
			return hint(p->v, p->err, "unknown option", word);
		r = take_option(p, opt, word, NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A word that is no option: a position, or the start of the command. */
static int take_word(struct parse *p, const char *word)
{
	if (p->o->n_pos < p->v->max_pos) {
		p->o->pos[p->o->n_pos++] = word;
		return 0;
	}
	if (!p->v->tail)
		return hint(p->v, p->err, "unexpected", word);
	p->i--;
	p->stop = true;
	return 0;
}

static int take(struct parse *p, bool *literal)
{
	const char *word = p->argv[p->i++];

	if (!*literal && !strcmp(word, "--")) {
		*literal = true;
		p->stop = p->v->tail && p->o->n_pos >= p->v->min_pos;
		return 0;
	}
	if (*literal || word[0] != '-' || !word[1])
		return take_word(p, word);
	return word[1] == '-' ? take_long(p, word) : take_letters(p, word);
}

bool cli_is_home(const char *word)
{
	const char *home = getenv("HOME");

	return !strcmp(word, "~") || (home && home[0] == '/' && !strcmp(word, home));
}

int cli_parse(const struct cli_verb *v, int argc, const char *const *argv, struct cli_opts *ret, struct wslx_err *err)
{
	struct parse p = { .v = v, .argc = argc, .argv = argv, .o = ret, .err = err };
	bool literal = false;

	*ret = (struct cli_opts) { 0 };
	while (p.i < argc && !p.stop) {
		int r = take(&p, &literal);

		if (r < 0)
			return r;
		if (ret->help)
			return 0;
	}
	if (p.stop && ret->exec && p.i < argc && !strcmp(argv[p.i], "--"))
		p.i++;
	ret->tail = argv + p.i;
	ret->n_tail = p.stop ? argc - p.i : 0;
	if (ret->n_pos < v->min_pos)
		return wslx_err_set(err, EINVAL, "too few arguments; usage: wslx %s %s", spell(v), v->args);
	return 0;
}

int cli_apply_settings(const struct cli_opts *o, struct wslx_settings *s, struct wslx_err *err)
{
	const struct {
		const char *key, *value;
	} given[] = {
		{ "engine", o->engine }, { "memory", o->memory }, { "cpus", o->cpus },
		{ "kernel", o->kernel }, { "net", o->net },
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(given); i++) {
		if (!given[i].value)
			continue;
		if (!*given[i].value)
			return wslx_err_set(err, EINVAL, "--%s needs a value", given[i].key);
		r = wslx_settings_set(s, given[i].key, given[i].value, err);
	}
	for (size_t i = 0; r == 0 && i < o->n_publish; i++) {
		if (!*o->publish[i])
			return wslx_err_set(err, EINVAL, "--publish needs a value");
		r = wslx_settings_set(s, "publish", o->publish[i], err);
	}
	if (r == 0 && s->net.n_publish && s->net.mode != WSLX_NET_PASST)
		return wslx_err_set(err, EINVAL, "ports can be published on the passt network only");
	return r;
}
