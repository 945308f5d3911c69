/* Shared by the vsock*.c files only. */
#ifndef WSLX_DEV_VIRTIO_VSOCK_INTERNAL_H
#define WSLX_DEV_VIRTIO_VSOCK_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/siphash.h"
#include "dev/dev.h"
#include "dev/virtio/vsock.h"

enum { VSOCK_Q_RX, VSOCK_Q_TX, VSOCK_Q_EVENT, VSOCK_N_QUEUES };

/* virtio 1.2, 5.10.6: packet header. */
#define VSOCK_HDR_LEN 44
#define VSOCK_TYPE_STREAM 1
enum vsock_op {
	VSOCK_OP_INVALID,
	VSOCK_OP_REQUEST,
	VSOCK_OP_RESPONSE,
	VSOCK_OP_RST,
	VSOCK_OP_SHUTDOWN,
	VSOCK_OP_RW,
	VSOCK_OP_CREDIT_UPDATE,
	VSOCK_OP_CREDIT_REQUEST,
};
#define VSOCK_SHUT_RCV 1u  /* the sender receives no more */
#define VSOCK_SHUT_SEND 2u /* the sender sends no more */
#define VSOCK_SHUT_BOTH (VSOCK_SHUT_RCV | VSOCK_SHUT_SEND)

struct vsock_hdr {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
};

/* The port range that host clients get their end from. */
#define VSOCK_HOST_PORT_FIRST 0x40000000u
#define VSOCK_HOST_PORT_LAST 0x7fffffffu

#define VSOCK_MAX_CLIENTS 64         /* host clients that have not sent their line yet */
#define VSOCK_MAX_UNANSWERED 64      /* guest requests the owner has not answered yet */
#define VSOCK_CLIENT_TIMEOUT_MS 5000 /* for the CONNECT line */
#define VSOCK_GUEST_TIMEOUT_MS 20000 /* for the guest's RESPONSE */
#define VSOCK_RST_RING 256
#define VSOCK_BATCH 16   /* receive buffers filled by one read */
#define VSOCK_BUDGET 256 /* packets, or looks for one, per direction before other watches get their turn */

/*
 * Connection states.  "hashed": found by the guest's packets.
 *
 *  HOST_WAIT   hashed  a host client waits for the guest's RESPONSE
 *  GUEST_WAIT  hashed  the guest waits for the owner's connect_done
 *  GUEST_GONE  -       the guest left while waiting; kept until connect_done
 *  UP          hashed  data flows
 *  DONE        hashed  both directions shut down by us, fd closed; waits for the guest's RST
 *  DYING       hashed  fd closed, RST not sent yet
 *  LINGER      -       the guest closed; what it sent before is still being written out
 */
enum conn_state {
	CONN_FREE,
	CONN_HOST_WAIT,
	CONN_GUEST_WAIT,
	CONN_GUEST_GONE,
	CONN_UP,
	CONN_DONE,
	CONN_DYING,
	CONN_LINGER,
};

/* Control packets a connection owes the guest, sent in this order. */
#define OWE_RST (1u << 0)
#define OWE_REQUEST (1u << 1)
#define OWE_RESPONSE (1u << 2)
#define OWE_CREDIT_UPDATE (1u << 3)
#define OWE_CREDIT_REQUEST (1u << 4)
#define OWE_SHUTDOWN (1u << 5)

struct vsock_conn {
	enum conn_state state;
	uint16_t generation; /* distinguishes users of a slot in connect ids */
	uint32_t host_port, guest_port;
	int fd; /* -1 = closed */
	struct wslx_watch *watch;
	struct wslx_vsock *dev;

	struct vsock_conn *hash_next;
	struct vsock_conn *next, *prev; /* ready list; `next` also links free slots */
	bool ready;
	struct vsock_conn *wait_next, *wait_prev; /* HOST_WAIT, oldest first */
	bool waiting;
	int64_t deadline_ms;

	uint32_t owe;        /* OWE_* */
	bool readable;       /* a read may yield something */
	bool bulk;           /* the last read filled its buffer */
	bool host_eof;       /* host sends no more, all of it was read */
	bool host_deaf;      /* host receives no more */
	bool host_hup;       /* both, but unread data may remain */
	bool wr_shut;        /* SHUT_WR done */
	bool credit_asked;   /* CREDIT_REQUEST sent since the window last opened */
	uint32_t guest_shut; /* VSOCK_SHUT_* from the guest */
	uint32_t told_shut;  /* VSOCK_SHUT_* sent to the guest */

	/* Host to guest (5.10.6.3): the guest's window and our position in it. */
	uint32_t peer_buf_alloc, peer_fwd_cnt, tx_cnt;
	/* Guest to host: our window, bytes received, passed on, last announced. */
	uint32_t buf_alloc, rx_cnt, fwd_cnt, told_fwd_cnt;

	/* Bytes received and not yet taken by the host: backlog[off, off + len). */
	uint8_t *backlog;
	uint32_t backlog_cap, backlog_off, backlog_len;
};

struct vsock_rst {
	uint64_t src_cid;
	uint32_t src_port, dst_port;
	uint16_t type;
};

struct vsock_client {
	struct vsock_client *next, *prev; /* oldest first */
	struct wslx_vsock *dev;
	struct wslx_watch *watch;
	int fd;
	int64_t deadline_ms;
};

struct wslx_vsock {
	struct wslx_vdev d;
	uint64_t guest_cid;
	void (*connect_request)(void *opaque, uint32_t id, uint32_t port);
	void *opaque;

	bool paused;
	bool owe_event;           /* TRANSPORT_RESET not delivered yet */
	struct wslx_timer *work;  /* armed with 0: run once at the end of this loop round */
	struct wslx_timer *sweep; /* deadlines; armed while anything has one */
	bool sweep_armed;

	struct vsock_conn *conns; /* max_conns slots; untouched ones cost no memory */
	unsigned max_conns, n_slots_used, n_conns, n_unanswered;
	struct vsock_conn *free_conns;
	struct vsock_conn **hash;
	uint32_t hash_mask;
	struct wslx_siphash_key hash_key; /* the guest picks both ports: it must not know where they go */
	struct vsock_conn *ready_head, *ready_tail;
	struct vsock_conn *wait_head, *wait_tail;
	uint32_t next_host_port;

	struct vsock_rst rst[VSOCK_RST_RING];
	unsigned rst_head, rst_len;

	int listen_fd;
	struct wslx_watch *listen_watch;
	bool accept_paused;
	struct vsock_client *clients, *clients_tail;
	unsigned n_clients;

	bool rx_pushed, tx_pushed;
	bool tx_blocked; /* the RST ring was full */
	uint64_t n_rx_packets, n_tx_packets, n_rx_bytes, n_tx_bytes, n_dropped, n_resets, n_opened;

	/* Scratch for one packet or one batch; too large for the stack. */
	struct wslx_chain chain[VSOCK_BATCH];
	struct iovec iov[WSLX_VQ_MAX_CHAIN * 2];
};

static inline struct wslx_vsock *vsock_of(struct wslx_vdev *d)
{
	return CONTAINER_OF(d, struct wslx_vsock, d);
}

/* vsock.c */
void wslx_vsock_schedule(struct wslx_vsock *v);
void wslx_vsock_arm_sweep(struct wslx_vsock *v);

/* vsock_conn.c */
WSLX_MUST_CHECK struct vsock_conn *wslx_vsock_conn_new(struct wslx_vsock *v, enum conn_state state, uint32_t host_port,
						       uint32_t guest_port);
struct vsock_conn *wslx_vsock_conn_find(struct wslx_vsock *v, uint32_t host_port, uint32_t guest_port);
void wslx_vsock_conn_unhash(struct vsock_conn *c);
/* The bucket of a pair of ports. */
uint32_t wslx_vsock_bucket(const struct wslx_vsock *v, uint32_t host_port, uint32_t guest_port);
void wslx_vsock_conn_free(struct vsock_conn *c);
/* Closes the host side and owes the guest an RST; the slot is freed once it is sent. */
void wslx_vsock_conn_reset(struct vsock_conn *c);
/* The guest is gone for good: closes c at once, or after what it sent is with the host. */
void wslx_vsock_conn_drop(struct vsock_conn *c);
void wslx_vsock_conn_close_fd(struct vsock_conn *c);
void wslx_vsock_conn_ready(struct vsock_conn *c);
void wslx_vsock_conn_unready(struct vsock_conn *c);
void wslx_vsock_conn_wait(struct vsock_conn *c, uint64_t timeout_ms);
void wslx_vsock_conn_unwait(struct vsock_conn *c);
/* Takes fd (made non-blocking).  On error fd stays the caller's. */
WSLX_MUST_CHECK int wslx_vsock_conn_attach(struct vsock_conn *c, int fd);
uint32_t wslx_vsock_conn_credit(const struct vsock_conn *c);
/* n bytes of [off, ..) of iov, received from the guest, to the host. */
void wslx_vsock_conn_deliver(struct vsock_conn *c, const struct iovec *iov, unsigned n_iov, uint64_t off, uint32_t n);
void wslx_vsock_conn_guest_shutdown(struct vsock_conn *c, uint32_t flags);
void wslx_vsock_conn_came_up(struct vsock_conn *c);
/* Puts what c owes after a change on the host side into c->owe. */
void wslx_vsock_conn_owe(struct vsock_conn *c, uint32_t owe);
void wslx_vsock_conn_check_shutdown(struct vsock_conn *c);

/* vsock_tx.c: the guest's packets.  True: budget used up, more to do. */
bool wslx_vsock_process_tx(struct wslx_vsock *v);
void wslx_vsock_push_rst(struct wslx_vsock *v, const struct vsock_rst *r);

/* vsock_rx.c: packets to the guest.  True: budget used up, more to do. */
bool wslx_vsock_pump_rx(struct wslx_vsock *v);
void wslx_vsock_hdr_encode(const struct vsock_hdr *h, uint8_t out[VSOCK_HDR_LEN]);
void wslx_vsock_hdr_decode(const uint8_t in[VSOCK_HDR_LEN], struct vsock_hdr *h);

/* vsock_host.c: the listening socket and the CONNECT line. */
WSLX_MUST_CHECK int wslx_vsock_host_start(struct wslx_vsock *v);
void wslx_vsock_host_stop(struct wslx_vsock *v);
void wslx_vsock_host_drop_clients(struct wslx_vsock *v);
void wslx_vsock_host_sweep(struct wslx_vsock *v, int64_t now);

#endif
