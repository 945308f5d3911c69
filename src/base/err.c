#include "base/err.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

int wslx_err_set(struct wslx_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		va_end(ap);
		wslx_sanitize(err->msg);
	}
	return -code;
}

int wslx_err_sys(struct wslx_err *err, int code, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	if (err) {
		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		va_end(ap);
		n = strlen(err->msg);
		snprintf(err->msg + n, sizeof(err->msg) - n, ": %s", strerror(code));
		wslx_sanitize(err->msg);
	}
	return -code;
}

int wslx_err_prefix(struct wslx_err *err, const char *fmt, ...)
{
	char old[sizeof(err->msg)];
	va_list ap;
	size_t n;

	if (!err)
		return 0;
	memcpy(old, err->msg, sizeof(old));
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	n = strlen(err->msg);
	snprintf(err->msg + n, sizeof(err->msg) - n, ": %s", old);
	wslx_sanitize(err->msg);
	return -err->code;
}
