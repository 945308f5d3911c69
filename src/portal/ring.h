/*
 * The two ends of a ring: indices, checks, publication.  No waiting here.
 *
 * Theory of operation.  The producer owns struct portal_tx and the data, the
 * consumer owns struct portal_rx; head and tail count bytes for ever.  Each end
 * keeps its own position and the last index seen of the other in private
 * memory, so a busy ring touches the other's line only when it seems full or
 * empty.
 *
 * Wake-ups.  Publishing stores head and then loads rx.sleeping; going to sleep
 * stores rx.sleeping and then loads head.  All four are sequentially
 * consistent, so at least one side sees the other: either the sleeper finds the
 * record or the publisher finds the sleeper.  The sleeper then waits on the low
 * half of head, which the kernel compares again.  tail and tx.sleeping are the
 * same thing the other way round.
 *
 * That barrier would cost a publisher more than all the rest.  So a sleeper may
 * promise (PORTAL_FENCED) to put it into the publisher from outside, with
 * membarrier(2), between its two steps; `light` says that the peer promised,
 * `fenced` that we did.
 *
 * Trust boundary: the other's index is accepted only if it moved forward and
 * not past what is possible; a record's header is read once and checked
 * against index and capacity.  A violation is -EPROTO and sticks.
 *
 * Threads: one for each end.
 */
#ifndef WSLX_PORTAL_RING_H
#define WSLX_PORTAL_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wslx/portal_abi.h>

#include "base/macros.h"

struct wslx_portal_txe {
	struct portal_tx *tx;
	const struct portal_rx *rx;
	uint8_t *data;
	uint64_t mask;
	uint64_t head;      /* behind the last committed byte */
	uint64_t published; /* what tx->head says */
	uint64_t tail;      /* last seen, checked */
	uint64_t room;      /* a record may be written here */
	size_t reserved;    /* of a record or of a span */
	bool has_reserved;
	bool broken;
	bool light, fenced;
};

struct wslx_portal_rxe {
	struct portal_rx *rx;
	const struct portal_tx *tx;
	const uint8_t *data;
	uint64_t mask;
	uint64_t pos;      /* next byte to read */
	uint64_t released; /* what rx->tail says */
	uint64_t head;     /* last seen, checked */
	bool broken;
	bool light, fenced;
};

/* 0 if kind and capacity are such that a ring can have them. */
WSLX_MUST_CHECK int wslx_portal_ring_check(uint32_t kind, uint64_t capacity);

/* Fill in one's own block, before anybody else knows of it. */
void wslx_portal_tx_format(struct portal_tx *tx, uint32_t kind, uint64_t capacity, uint64_t data_off, uint32_t flags);
void wslx_portal_rx_format(struct portal_rx *rx, uint32_t kind, uint32_t flags);

void wslx_portal_txe_init(struct wslx_portal_txe *e, struct portal_tx *tx, const struct portal_rx *rx, uint8_t *data,
			  uint64_t capacity);
void wslx_portal_rxe_init(struct wslx_portal_rxe *e, struct portal_rx *rx, const struct portal_tx *tx,
			  const uint8_t *data, uint64_t capacity);

/* What happens to every record, reserve to release, is in ring_inline.h. */

/* Bytes: one piece of free space, at least one byte, or -EAGAIN. */
WSLX_MUST_CHECK int wslx_portal_tx_span(struct wslx_portal_txe *e, void **ret, size_t *ret_n);
/* Used of that, once.  The span is over, whatever it says. */
WSLX_MUST_CHECK int wslx_portal_tx_wrote(struct wslx_portal_txe *e, size_t n);
/* Announces sleep for want of room.  0: sleep while the low half of rx->tail is *ret_expected;
 * 1: do not, something moved. */
WSLX_MUST_CHECK int wslx_portal_tx_prepare_sleep(struct wslx_portal_txe *e, uint32_t *ret_expected);
void wslx_portal_tx_awake(struct wslx_portal_txe *e);

WSLX_MUST_CHECK int wslx_portal_rx_span(struct wslx_portal_rxe *e, const void **ret, size_t *ret_n);
WSLX_MUST_CHECK int wslx_portal_rx_consumed(struct wslx_portal_rxe *e, size_t n);
WSLX_MUST_CHECK int wslx_portal_rx_prepare_sleep(struct wslx_portal_rxe *e, uint32_t *ret_expected);
void wslx_portal_rx_awake(struct wslx_portal_rxe *e);

static inline uint64_t wslx_portal_record_size(size_t n)
{
	return (sizeof(struct portal_record) + (uint64_t)n + 7) & ~UINT64_C(7);
}

#endif
