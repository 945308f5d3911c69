#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/cli.h"

void cli_complain(const struct wslx_err *err)
{
	cli_progress_clear();
	fprintf(stderr, "wslx: %s\n", err->msg[0] ? err->msg : strerror(err->code));
}

void cli_warn(const char *fmt, ...)
{
	struct wslx_err line;
	char text[sizeof(line.msg)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* Its cleaning of control characters is wanted here too. */
	(void)wslx_err_set(&line, 1, "%s", text);
	cli_progress_clear();
	fprintf(stderr, "wslx: warning: %s\n", line.msg);
}

static void put_char(const struct cli_filter *f, uint32_t c, size_t len)
{
	if (c == '\t' || (f->lines && c == '\n'))
		putc((int)c, f->out);
	else if (c == '\r' && f->lines)
		return; /* a serial console ends its lines with both */
	else if (wslx_is_control(c))
		fprintf(f->out, c < 0x80 ? "\\x%02x" : "\\u%04x", (unsigned)c);
	else
		fwrite(f->held, 1, len, f->out);
}

/* Writes out what is held, but for the beginning of a character. */
static void release_held(struct cli_filter *f, bool last)
{
	while (f->n_held) {
		uint32_t c = 0;
		int k = wslx_utf8_next(f->held, f->n_held, &c);

		if (k == -EAGAIN && !last)
			return;
		if (k > 0)
			put_char(f, c, (size_t)k);
		else
			fprintf(f->out, "\\x%02x", f->held[0]);
		k = k > 0 ? k : 1;
		f->n_held -= (unsigned)k;
		memmove(f->held, f->held + k, f->n_held);
	}
}

void cli_filter_put(struct cli_filter *f, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		f->held[f->n_held++] = (unsigned char)s[i];
		release_held(f, false);
	}
}

void cli_filter_end(struct cli_filter *f)
{
	release_held(f, true);
}

size_t cli_put_escaped(const char *s)
{
	cleanup_free char *text = NULL;
	size_t len = 0;
	struct cli_filter f = { .out = open_memstream(&text, &len) };

	if (!f.out)
		return 0;
	cli_filter_put(&f, s, strlen(s));
	cli_filter_end(&f);
	if (fclose(f.out) == EOF)
		return 0;
	return fwrite(text, 1, len, stdout);
}

void cli_format_size(uint64_t n, char buf[16])
{
	static const char units[] = "BKMGTP";
	unsigned u = 0;
	double v = (double)n;

	while (v >= 1024 && u < sizeof(units) - 2) {
		v /= 1024;
		u++;
	}
	if (u == 0 || v >= 100)
		snprintf(buf, 16, "%.0f%c", v, units[u]);
	else
		snprintf(buf, 16, "%.1f%c", v, units[u]);
}
