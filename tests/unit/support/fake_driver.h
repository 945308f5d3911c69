/*
 * A virtio driver for tests: its own guest memory, split rings built by hand,
 * and a transport that counts what the device tells it.  It drives one device
 * on the calling thread; wait functions pump the device's loop.
 *
 *	struct fake_driver f;
 *	fake_driver_init(&f, vdev, 16 << 20);
 *	fake_driver_negotiate(&f, ~0ull);
 *	fake_driver_queue(&f, 0, 64);
 *	fake_driver_start(&f);
 *	head = fake_driver_add(&f, 0, bufs, n, false);
 *	fake_driver_kick(&f, 0);
 *	fake_driver_wait(&f, 0, &head, &len);
 *	fake_driver_free(&f);     // resets the device; does not free it
 */
#ifndef WSLX_TESTS_FAKE_DRIVER_H
#define WSLX_TESTS_FAKE_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dev/dev.h"

#define FAKE_DESC_F_NEXT 1u
#define FAKE_DESC_F_WRITE 2u
#define FAKE_DESC_F_INDIRECT 4u

struct fake_queue {
	uint16_t size;
	uint64_t desc, avail, used; /* guest addresses */
	uint16_t avail_idx;         /* next to publish */
	uint16_t last_used;         /* next used element to look at */
	uint16_t free[WSLX_VQ_MAX_SIZE];
	unsigned n_free;
	unsigned interrupts;
};

struct fake_driver {
	struct wslx_gm *gm;
	struct wslx_vdev *d;
	uint64_t mem_size, next; /* bump allocator */
	struct fake_queue q[WSLX_VDEV_MAX_QUEUES];
	unsigned needs_reset, config_changes;
};

struct fake_buf {
	uint64_t gpa;
	uint32_t len;
	bool write; /* the device writes it */
};

/* All of these abort the test program on misuse (out of guest memory etc.). */
void fake_driver_init(struct fake_driver *f, struct wslx_vdev *d, uint64_t mem_size);
void fake_driver_free(struct fake_driver *f);
/* Zeroed guest memory; align: a power of two. */
uint64_t fake_driver_alloc(struct fake_driver *f, uint64_t size, uint64_t align);
void *fake_driver_ptr(struct fake_driver *f, uint64_t gpa, uint64_t len);
/* Accepts what is offered and wanted, and VERSION_1. */
void fake_driver_negotiate(struct fake_driver *f, uint64_t wanted);
void fake_driver_queue(struct fake_driver *f, unsigned q, uint16_t size);
void fake_driver_start(struct fake_driver *f); /* activate */
void fake_driver_stop(struct fake_driver *f);  /* reset; queues and broken flags cleared */
uint64_t fake_driver_config(struct fake_driver *f, uint32_t off, uint32_t len);

/* Adds a chain and publishes it; returns its head, or -1 if the ring is full. */
int fake_driver_add(struct fake_driver *f, unsigned q, const struct fake_buf *bufs, unsigned n, bool indirect);
void fake_driver_kick(struct fake_driver *f, unsigned q);
/* Takes one used element if there is one; its descriptors are free again. */
bool fake_driver_used(struct fake_driver *f, unsigned q, uint16_t *head, uint32_t *len);
/* The same, pumping the loop for up to 10 seconds. */
bool fake_driver_wait(struct fake_driver *f, unsigned q, uint16_t *head, uint32_t *len);

/* Raw access, for hostile rings. */
void fake_driver_desc(struct fake_driver *f, unsigned q, uint16_t i, uint64_t addr, uint32_t len, uint16_t flags,
		      uint16_t next);
void fake_driver_publish(struct fake_driver *f, unsigned q, uint16_t head);
void fake_driver_set_avail_idx(struct fake_driver *f, unsigned q, uint16_t idx);
void fake_driver_set_used_event(struct fake_driver *f, unsigned q, uint16_t idx);
uint16_t fake_driver_avail_event(struct fake_driver *f, unsigned q);
void fake_driver_set_avail_flags(struct fake_driver *f, unsigned q, uint16_t flags);
uint16_t fake_driver_used_flags(struct fake_driver *f, unsigned q);

#endif
