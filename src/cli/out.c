#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

void cli_put_escaped(const char *s, size_t n, bool keep_newlines)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)s[i];

		if (ch == '\t' || (keep_newlines && ch == '\n'))
			putchar(ch);
		else if (ch == '\r' && keep_newlines)
			continue; /* a serial console ends its lines with both */
		else if (ch < 0x20 || ch == 0x7f)
			printf("\\x%02x", ch);
		else if (ch == 0xc2 && i + 1 < n && (unsigned char)s[i + 1] >= 0x80 && (unsigned char)s[i + 1] < 0xa0)
			printf("\\u00%02x", (unsigned char)s[++i]); /* C1 controls in UTF-8 */
		else
			putchar(ch);
	}
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
