/* Shared by the tests of this folder: a driver for the vsock device, with packets. */
#ifndef WSLX_TESTS_VSOCK_SUPPORT_H
#define WSLX_TESTS_VSOCK_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "dev/virtio/vsock.h"
#include "dev/virtio/vsock_internal.h"
#include "fake_driver.h"

#define CID 77
#define RX_LEN (VSOCK_HDR_LEN + 4096)
#define TX_MAX (300 * 1024)
#define GUEST_WINDOW (1024 * 1024)

struct fixture {
	struct wslx_loop *loop;
	struct wslx_vdev *d;
	struct fake_driver drv;
	char dir[64], path[96];
	uint64_t rx_gpa[WSLX_VQ_MAX_SIZE];
	uint64_t tx_gpa;
	uint32_t asked_id, asked_port;
	unsigned n_asked;
};

struct pkt {
	struct vsock_hdr h;
	uint8_t data[4096];
};

void start_driver(struct fixture *f);
void make(struct fixture *f, unsigned max_conns);
int setup(void **state);
int teardown(void **state);
void pump(struct fixture *f);
void add_rx(struct fixture *f, unsigned n);
/* Takes a packet to the guest if there is one, and gives the buffer back. */
bool try_rx(struct fixture *f, struct pkt *ret);
void expect_rx(struct fixture *f, enum vsock_op op, struct pkt *ret);
void expect_silence(struct fixture *f);
void tx_raw(struct fixture *f, const struct vsock_hdr *h, const void *data, uint32_t data_len);
struct vsock_hdr guest_hdr(enum vsock_op op, uint32_t guest_port, uint32_t host_port);
void tx(struct fixture *f, enum vsock_op op, uint32_t guest_port, uint32_t host_port);
void tx_shutdown(struct fixture *f, uint32_t guest_port, uint32_t host_port, uint32_t flags);
void tx_data(struct fixture *f, uint32_t guest_port, uint32_t host_port, const void *data, uint32_t len);
/* A host client that is connected to guest port `port`. */
int host_connect(struct fixture *f, uint32_t port, uint32_t *ret_host_port);
/* A guest connection to host port 1024; returns the host's end. */
int guest_connect(struct fixture *f, uint32_t guest_port);
uint64_t stat_of(struct fixture *f, const char *name);

#endif
