/* etc/wsl-distribution.conf of a .wsl package: an INI file. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "image/import_internal.h"

static char *trim(char *s)
{
	while (isspace((unsigned char)*s))
		s++;
	size_t n = strlen(s);

	while (n && isspace((unsigned char)s[n - 1]))
		s[--n] = 0;
	return s;
}

static void take_name(const char *value, struct wslx_import_result *ret)
{
	size_t n = strlen(value);

	if (n >= sizeof(ret->default_name))
		return;
	for (size_t i = 0; i < n; i++)
		if (iscntrl((unsigned char)value[i]))
			return;
	memcpy(ret->default_name, value, n + 1);
}

static void take_uid(const char *value, struct wslx_import_result *ret)
{
	char *end;

	if (!isdigit((unsigned char)*value))
		return;
	errno = 0;
	unsigned long long v = strtoull(value, &end, 10);

	if (errno == 0 && *end == 0 && v < UINT32_MAX)
		ret->default_uid = (int64_t)v;
}

void wslx_import_parse_conf(const char *text, size_t len, struct wslx_import_result *ret)
{
	bool oobe = false;
	char line[512];

	for (size_t at = 0; at < len;) {
		const char *nl = memchr(text + at, '\n', len - at);
		size_t n = nl ? (size_t)(nl - (text + at)) : len - at;

		if (n < sizeof(line)) {
			memcpy(line, text + at, n);
			line[n] = 0;
			char *s = trim(line), *eq = strchr(s, '=');

			if (*s == '[') {
				oobe = strncasecmp(s, "[oobe]", 6) == 0;
			} else if (oobe && eq && *s != '#' && *s != ';') {
				*eq = 0;
				char *key = trim(s), *value = trim(eq + 1);
				size_t vlen = strlen(value);

				if (vlen >= 2 && value[0] == '"' && value[vlen - 1] == '"') {
					value[vlen - 1] = 0;
					value++;
				}
				if (strcasecmp(key, "defaultName") == 0)
					take_name(value, ret);
				else if (strcasecmp(key, "defaultUid") == 0)
					take_uid(value, ret);
			}
		}
		at += n + 1;
	}
}
