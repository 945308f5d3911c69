/*
 * A writer for the little AML that the DSDT needs (ACPI 6.5, chapter 20).
 * Errors stick: check `err` once at the end.  A construct with a length is
 * opened and closed around its content.
 */
#ifndef WSLX_BOOT_AML_H
#define WSLX_BOOT_AML_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct wslx_aml {
	struct wslx_buf b;
	int err;
};

#define WSLX_AML_ARG0 0x68
#define WSLX_AML_LOCAL0 0x60

void wslx_aml_init(struct wslx_aml *a);
void wslx_aml_free(struct wslx_aml *a);

void wslx_aml_byte(struct wslx_aml *a, uint8_t v);        /* raw */
void wslx_aml_path(struct wslx_aml *a, const char *path); /* "\\_SB_" or one 4-letter segment */
void wslx_aml_int(struct wslx_aml *a, uint64_t v);        /* shortest form */
void wslx_aml_name(struct wslx_aml *a, const char *name); /* Name (name, <next object>) */
void wslx_aml_eisaid(struct wslx_aml *a, const char *id); /* "PNP0A08" */
void wslx_aml_buffer(struct wslx_aml *a, const void *p, size_t n);
void wslx_aml_dword_field(struct wslx_aml *a, uint8_t source, unsigned off, const char *name);

/* Each gives a mark for wslx_aml_close. */
size_t wslx_aml_scope(struct wslx_aml *a, const char *path);
size_t wslx_aml_device(struct wslx_aml *a, const char *name);
size_t wslx_aml_method(struct wslx_aml *a, const char *name, unsigned args);
size_t wslx_aml_package(struct wslx_aml *a, unsigned n);
size_t wslx_aml_if(struct wslx_aml *a); /* predicate follows */
size_t wslx_aml_else(struct wslx_aml *a);
void wslx_aml_close(struct wslx_aml *a, size_t mark);

/* Name (_CRS, ResourceTemplate () { ... }): descriptors go in between (ACPI 6.5, 6.4). */
size_t wslx_aml_crs(struct wslx_aml *a);
void wslx_aml_crs_end(struct wslx_aml *a, size_t mark);
void wslx_aml_io(struct wslx_aml *a, uint16_t port, uint8_t len);
void wslx_aml_fixed32(struct wslx_aml *a, uint32_t base, uint32_t len);
void wslx_aml_irq(struct wslx_aml *a, uint32_t gsi); /* edge, active high, exclusive */
void wslx_aml_bus_range(struct wslx_aml *a, uint16_t first, uint16_t last);
void wslx_aml_io_range(struct wslx_aml *a, uint16_t first, uint16_t last);
void wslx_aml_mem32_range(struct wslx_aml *a, uint32_t first, uint32_t last);
void wslx_aml_mem64_range(struct wslx_aml *a, uint64_t first, uint64_t last);

#endif
