/* A vhost-user front end made by hand, over a socket pair, and a small device behind the server. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dev/vhost_user/msg.h"
#include "dev/vhost_user/server.h"

#define MEM_SIZE (1u << 20)
#define GPA 0x100000u         /* of the memory, as descriptors see it */
#define UVA 0x7f0000000000ull /* of the memory, as the front end says it is mapped */
#define RING 8
#define N_QUEUES 2
/* Layout of each ring within the memory. */
#define DESC(q) (0x1000u + 0x4000u * (q))
#define AVAIL(q) (DESC(q) + 0x1000u)
#define USED(q) (DESC(q) + 0x2000u)
#define DATA(q) (DESC(q) + 0x3000u)
#define F_TOY (1ull << 5)

/* A device that turns every byte it reads around and counts what it is told. */
struct toy {
	struct wslx_vdev d;
	unsigned n_activate, n_reset, n_quiesce, n_resume, n_kick;
	bool quiesced;
	uint8_t config[16];
};

struct fixture {
	struct wslx_loop *loop;
	struct toy toy;
	struct wslx_vhost_user *s;
	int fd, memfd;
	uint8_t *mem;
	int kick[N_QUEUES], call[N_QUEUES], err[N_QUEUES];
	uint16_t avail[N_QUEUES];
	bool closed;
	int closed_err;
};

int fe_make_memfd(unsigned seals);
int fe_setup(void **state);
int fe_teardown(void **state);
void fe_pump(struct fixture *f);
void fe_send_msg(struct fixture *f, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
		 const int *fds, size_t n_fds);
/* The payload of the answer to request. */
uint32_t fe_recv_reply(struct fixture *f, uint32_t request, void *buf, size_t size);
uint64_t fe_get_u64(struct fixture *f, uint32_t request);
void fe_set_u64(struct fixture *f, uint32_t request, uint64_t v, const int *fd);
void fe_set_state(struct fixture *f, uint32_t request, uint32_t index, uint32_t num);
uint32_t fe_get_base(struct fixture *f, uint32_t index);
void fe_put_region(uint8_t *p, uint64_t gpa, uint64_t size, uint64_t uva, uint64_t off);
void fe_set_mem(struct fixture *f, int fd);
void fe_set_addr(struct fixture *f, uint32_t q, uint64_t desc, uint64_t avail, uint64_t used);
void fe_set_ring(struct fixture *f, uint32_t q, uint32_t base);
void fe_handshake(struct fixture *f);
void fe_start(struct fixture *f);
uint64_t fe_take(int fd);
void fe_put_desc(struct fixture *f, unsigned q, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next);
/* One request through queue q: 4 bytes there, 4 back. */
void fe_submit(struct fixture *f, unsigned q);
void fe_round_trip(struct fixture *f, unsigned q);
void fe_expect_closed(struct fixture *f, int err);
