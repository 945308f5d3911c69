/* For those who link jansson. */
#ifndef WSLX_BASE_JSON_H
#define WSLX_BASE_JSON_H

#include <jansson.h>

#include "base/cleanup.h"

static inline void wslx_json_cleanup(json_t **j)
{
	json_decref(*j);
}

#define cleanup_json cleanup_with(wslx_json_cleanup)

#endif
