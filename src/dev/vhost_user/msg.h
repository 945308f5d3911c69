/*
 * vhost-user messages: numbers and framing.
 *
 *   offset 0  u32 request
 *          4  u32 flags: bits 0-1 version (1), bit 2 reply, bit 3 need reply
 *          8  u32 payload length, then the payload
 *   all in host byte order, which is little-endian on every host we run on;
 *   descriptors ride along with the header.
 */
#ifndef WSLX_DEV_VHOST_USER_MSG_H
#define WSLX_DEV_VHOST_USER_MSG_H

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum vhu_request {
	VHU_GET_FEATURES = 1,
	VHU_SET_FEATURES = 2,
	VHU_SET_OWNER = 3,
	VHU_RESET_OWNER = 4,
	VHU_SET_MEM_TABLE = 5,
	VHU_SET_VRING_NUM = 8,
	VHU_SET_VRING_ADDR = 9,
	VHU_SET_VRING_BASE = 10,
	VHU_GET_VRING_BASE = 11,
	VHU_SET_VRING_KICK = 12,
	VHU_SET_VRING_CALL = 13,
	VHU_SET_VRING_ERR = 14,
	VHU_GET_PROTOCOL_FEATURES = 15,
	VHU_SET_PROTOCOL_FEATURES = 16,
	VHU_GET_QUEUE_NUM = 17,
	VHU_SET_VRING_ENABLE = 18,
	VHU_SET_BACKEND_REQ_FD = 21,
	VHU_GET_CONFIG = 24,
	VHU_SET_CONFIG = 25,
	VHU_RESET_DEVICE = 34,
};

/* Requests of the back end, over the socket given by SET_BACKEND_REQ_FD. */
#define VHU_BACKEND_CONFIG_CHANGE 2u

#define VHU_HDR_LEN 12
#define VHU_VERSION 1u
#define VHU_VERSION_MASK 3u
#define VHU_FLAG_REPLY (1u << 2)
#define VHU_FLAG_NEED_REPLY (1u << 3)

#define VHU_F_PROTOCOL_FEATURES (1ull << 30)
#define VHU_PF_MQ (1ull << 0)
#define VHU_PF_REPLY_ACK (1ull << 3)
#define VHU_PF_BACKEND_REQ (1ull << 5)
#define VHU_PF_CONFIG (1ull << 9)
#define VHU_PF_RESET_DEVICE (1ull << 13)

#define VHU_MAX_FDS 8
#define VHU_MAX_REGIONS 8
#define VHU_REGION_LEN 32
#define VHU_CONFIG_HDR_LEN 12
#define VHU_CONFIG_MAX 256
#define VHU_VRING_INDEX_MASK 0xffu
#define VHU_VRING_NOFD (1u << 8)
/* The longest payloads are a memory table and a configuration space. */
#define VHU_PAYLOAD_MAX 512

/* One message under construction or complete.  Descriptors that nobody took
 * are closed by vhu_msg_clear. */
struct vhu_msg {
	uint32_t request, flags, size;
	uint8_t payload[VHU_PAYLOAD_MAX];
	int fds[VHU_MAX_FDS];
	size_t n_fds;
	/* Reception: bytes of header and payload that have arrived. */
	uint8_t hdr[VHU_HDR_LEN];
	size_t got;
};

void wslx_vhu_msg_clear(struct vhu_msg *m);
/* Continues the reception of m from a non-blocking socket.  1: complete; 0:
 * the peer closed between two messages; -EAGAIN; -EPROTO; -errno. */
WSLX_MUST_CHECK int wslx_vhu_msg_recv(int sock, struct vhu_msg *m);
/* -EPROTO when the peer does not take it at once. */
WSLX_MUST_CHECK int wslx_vhu_msg_send(int sock, uint32_t request, uint32_t flags, const void *payload, uint32_t size);

#endif
