/* Shared by server.c, memory.c and vring.c only. */
#ifndef WSLX_DEV_VHOST_USER_SERVER_INTERNAL_H
#define WSLX_DEV_VHOST_USER_SERVER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "dev/dev.h"
#include "dev/vhost_user/msg.h"
#include "dev/vhost_user/server.h"

struct vhu_region {
	uint64_t gpa, size, offset; /* offset within the file */
	uint64_t uva;               /* where the front end has it mapped */
	dev_t dev;                  /* which file */
	ino_t ino;
};

struct vhu_vring {
	struct wslx_vhost_user *server;
	unsigned index;
	uint16_t num;
	bool have_addr, enabled, running;
	uint64_t desc_uva, avail_uva, used_uva;
	uint16_t base;       /* next avail index: given by the front end, or where we stopped */
	uint16_t stopped_at; /* ... where we stopped last */
	bool any_base;       /* the device is fresh: every base is right */
	int kick_fd, call_fd, err_fd;
	struct wslx_watch *kick_watch;
};

struct wslx_vhost_user {
	struct wslx_vdev *d;
	int fd;
	struct wslx_watch *watch;
	int backend_req_fd;
	bool allow_unsealed;
	struct wslx_vhost_window window;
	void (*closed)(void *opaque, int err);
	void *opaque;

	struct wslx_gm *gm;
	struct vhu_region regions[VHU_MAX_REGIONS];
	size_t n_regions;

	bool features_set;
	uint64_t features;        /* as acknowledged, PROTOCOL_FEATURES included */
	uint64_t protocol;        /* negotiated protocol features */
	uint64_t active_features; /* those the device was activated with */
	bool quiesced;
	struct vhu_vring vring[WSLX_VDEV_MAX_QUEUES];

	struct vhu_msg msg;
};

/* memory.c */
WSLX_MUST_CHECK int wslx_vhu_set_mem_table(struct wslx_vhost_user *s, struct vhu_msg *m);
WSLX_MUST_CHECK int wslx_vhu_translate(const struct wslx_vhost_user *s, uint64_t uva, struct wslx_gpa *ret);

/* vring.c */
void wslx_vhu_vrings_init(struct wslx_vhost_user *s);
/* Starts or stops v according to what the front end has set up. */
WSLX_MUST_CHECK int wslx_vhu_vring_update(struct vhu_vring *v);
void wslx_vhu_vring_stop(struct vhu_vring *v);
/* Around a change of the memory table: stops what runs, *ret_mask says what. */
void wslx_vhu_vrings_pause(struct wslx_vhost_user *s, uint32_t *ret_mask);
WSLX_MUST_CHECK int wslx_vhu_vrings_continue(struct wslx_vhost_user *s, uint32_t mask);
/* Stops all and resets the device. */
void wslx_vhu_device_reset(struct wslx_vhost_user *s);
void wslx_vhu_vring_close(struct vhu_vring *v);
/* Takes fd (-1: none). */
WSLX_MUST_CHECK int wslx_vhu_vring_set_kick(struct vhu_vring *v, int fd);
extern const struct wslx_transport_ops wslx_vhu_transport_ops;

#endif
