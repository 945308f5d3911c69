/*
 * The agent protocol: what host and guest agent say to each other over vsock.
 * docs/agent-protocol.md is the specification, byte by byte; this header and
 * agent*.c are one codec for both sides.
 *
 * Theory of operation.  A connection is a stream of frames: a 16-byte header
 * and up to 64 KiB of payload.  A message larger than one frame is cut into
 * consecutive frames that carry WSLX_AGENT_F_MORE, all but the last.  Bodies
 * of control messages are lists of TLVs (u32 tag, u32 length, value); a
 * receiver skips tags it does not know unless WSLX_AGENT_TLV_CRITICAL is set.
 * DATA and CREDIT have fixed bodies.  Everything is little-endian.
 *
 * Trust boundary: both sides treat the other as hostile.  Every decoder here
 * checks lengths, counts, text (valid without NUL, bounded) and numbers
 * against the limits below and answers -EPROTO; nothing it returns can be
 * longer than those limits.  Decoders allocate at most a small multiple of
 * the message they were given.
 *
 * Threads: none of its own; no global state.
 */
#ifndef WSLX_PROTO_AGENT_H
#define WSLX_PROTO_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/macros.h"

#define WSLX_AGENT_PORT 1024u        /* both directions, docs/architecture.md */
#define WSLX_AGENT_MAGIC 0x47415857u /* "WXAG" */
#define WSLX_AGENT_VERSION_MIN 1u
#define WSLX_AGENT_VERSION_MAX 1u

#define WSLX_AGENT_HEADER_SIZE 16u
#define WSLX_AGENT_PAYLOAD_MAX 65536u
#define WSLX_AGENT_MESSAGE_MAX (4u << 20) /* a reassembled message */

enum wslx_agent_type {
	WSLX_AGENT_HELLO = 0x01, /* first frame of both sides */
	WSLX_AGENT_OK = 0x02,    /* reply without a body of its own */
	WSLX_AGENT_ERROR = 0x03, /* reply; with id 0: the connection ends */
	WSLX_AGENT_PING = 0x04,  /* any time, either side; body is echoed */
	WSLX_AGENT_PONG = 0x05,
	/* host -> agent requests on a control connection */
	WSLX_AGENT_CONFIG = 0x10,
	WSLX_AGENT_DISTRO_START = 0x11, /* -> DISTRO_STARTED */
	WSLX_AGENT_DISTRO_STOP = 0x12,
	WSLX_AGENT_PAUSE = 0x13,
	WSLX_AGENT_RESUME = 0x14,
	WSLX_AGENT_SHUTDOWN = 0x15,
	WSLX_AGENT_DISTRO_STARTED = 0x16,
	/* host -> agent requests on any connection */
	WSLX_AGENT_STATUS = 0x18, /* -> STATUS_REPLY */
	WSLX_AGENT_STATUS_REPLY = 0x19,
	WSLX_AGENT_SYNC = 0x1a,
	/* processes: the header's channel names one */
	WSLX_AGENT_EXEC = 0x20,    /* -> STARTED or ERROR */
	WSLX_AGENT_STARTED = 0x21, /* agent -> host */
	WSLX_AGENT_DATA = 0x22,    /* header id = stream */
	WSLX_AGENT_CREDIT = 0x23,  /* header id = stream; u32 bytes */
	WSLX_AGENT_STOP = 0x24,    /* header id = stream: the receiver of that stream wants no more */
	WSLX_AGENT_WINSIZE = 0x25, /* u16 rows, columns, x pixels, y pixels */
	WSLX_AGENT_SIGNAL = 0x26,  /* u32 Linux signal number, to the process group */
	WSLX_AGENT_HANGUP = 0x27,  /* the client goes away: SIGHUP, streams closed */
	WSLX_AGENT_EXIT = 0x28,    /* agent -> host, last frame of a channel */
	/* agent -> host, unasked */
	WSLX_AGENT_EVENT = 0x30,
};

/* Header flags. */
#define WSLX_AGENT_F_MORE 0x0001u /* the message continues in the next frame */
#define WSLX_AGENT_F_EOF 0x0002u  /* DATA: end of this stream after this payload */
#define WSLX_AGENT_F_MUST 0x0004u /* a receiver that does not know the type answers ERROR ENOSYS */

struct wslx_agent_header {
	uint32_t len; /* of the payload */
	uint16_t type;
	uint16_t flags;
	uint32_t channel;
	uint32_t id; /* request id; DATA, CREDIT, STOP: stream */
};

/* -EPROTO if the length exceeds WSLX_AGENT_PAYLOAD_MAX. */
WSLX_MUST_CHECK int wslx_agent_header_decode(const uint8_t p[WSLX_AGENT_HEADER_SIZE], struct wslx_agent_header *ret);
void wslx_agent_header_encode(const struct wslx_agent_header *h, uint8_t p[WSLX_AGENT_HEADER_SIZE]);

/*
 * Incremental receiver: feed bytes as they come, take whole messages out.
 * Pieces of a MORE message are joined; DATA is never joined.
 */
struct wslx_agent_rx {
	struct wslx_buf in;   /* bytes not parsed yet */
	size_t at;            /* start of the unparsed part of `in` */
	struct wslx_buf body; /* message being joined */
	bool joining;
	struct wslx_agent_header first; /* header of the message being joined */
};

struct wslx_agent_msg {
	struct wslx_agent_header h; /* len = whole body */
	const uint8_t *body;        /* valid until the next call on the receiver */
};

void wslx_agent_rx_init(struct wslx_agent_rx *rx);
void wslx_agent_rx_free(struct wslx_agent_rx *rx);
/* Room to read into; at least one header's worth.  -ENOMEM. */
WSLX_MUST_CHECK int wslx_agent_rx_space(struct wslx_agent_rx *rx, uint8_t **p, size_t *n);
void wslx_agent_rx_filled(struct wslx_agent_rx *rx, size_t n);
/* 1: *ret is a message; 0: more bytes needed; -EPROTO, -ENOMEM. */
WSLX_MUST_CHECK int wslx_agent_rx_next(struct wslx_agent_rx *rx, struct wslx_agent_msg *ret);

/* Appends a whole message, cut into frames.  `out` must have room by its max;
 * on failure `out` is as before. */
WSLX_MUST_CHECK int wslx_agent_put_message(struct wslx_buf *out, uint16_t type, uint16_t flags, uint32_t channel,
					   uint32_t id, const void *body, size_t n);

/*
 * Queue of outgoing bytes.  DATA payload is written in place: begin gives room
 * behind a header that end fills in, so that a read(2) can go straight there.
 */
struct wslx_agent_tx {
	struct wslx_buf out;
	size_t at; /* sent already */
};

void wslx_agent_tx_init(struct wslx_agent_tx *tx);
void wslx_agent_tx_free(struct wslx_agent_tx *tx);
static inline size_t wslx_agent_tx_pending(const struct wslx_agent_tx *tx)
{
	return tx->out.len - tx->at;
}
static inline const uint8_t *wslx_agent_tx_head(const struct wslx_agent_tx *tx)
{
	return tx->out.data + tx->at;
}
void wslx_agent_tx_sent(struct wslx_agent_tx *tx, size_t n);
/* A whole message; -EMSGSIZE when more than WSLX_AGENT_TX_MAX would be queued. */
WSLX_MUST_CHECK int wslx_agent_tx_message(struct wslx_agent_tx *tx, uint16_t type, uint16_t flags, uint32_t channel,
					  uint32_t id, const void *body, size_t n);
WSLX_MUST_CHECK int wslx_agent_tx_data_begin(struct wslx_agent_tx *tx, size_t n, uint8_t **ret);
/* n bytes (at most those asked for) were put there; without this call nothing is queued. */
void wslx_agent_tx_data_end(struct wslx_agent_tx *tx, uint32_t channel, uint32_t stream, uint16_t flags, size_t n);

#define WSLX_AGENT_TX_MAX (12u << 20)
/* Senders stop adding DATA above this. */
#define WSLX_AGENT_TX_HIGH (256u << 10)

/* ---- TLVs ---- */

#define WSLX_AGENT_TLV_CRITICAL 0x80000000u
#define WSLX_AGENT_TLV_MAX 16384u /* entries in one message */

enum wslx_agent_tag {
	/* HELLO */
	WSLX_TAG_AGENT_VERSION = 0x101,  /* text */
	WSLX_TAG_KERNEL_RELEASE = 0x102, /* text */
	WSLX_TAG_BOOT_AGENT_NS = 0x103,  /* u64 CLOCK_BOOTTIME at main() */
	WSLX_TAG_BOOT_MODULES_NS = 0x104,
	WSLX_TAG_BOOT_READY_NS = 0x105,
	/* OK, ERROR, EVENT */
	WSLX_TAG_ERRNO = 0x201,       /* u32 Linux errno */
	WSLX_TAG_TEXT = 0x202,        /* one line */
	WSLX_TAG_EXIT_STATUS = 0x203, /* u32: exit status a shell would give (126, 127) */
	WSLX_TAG_EVENT = 0x204,       /* u32 enum wslx_agent_event_kind */
	WSLX_TAG_SIGNAL = 0x205,      /* u32 */
	WSLX_TAG_STATUS = 0x206,      /* u32 */
	WSLX_TAG_CORE = 0x207,        /* u32 1: core dumped */
	/* CONFIG */
	WSLX_TAG_HOSTNAME = 0x301,       /* text */
	WSLX_TAG_TIME_NS = 0x302,        /* u64 CLOCK_REALTIME */
	WSLX_TAG_SEED = 0x303,           /* bytes, <= 512 */
	WSLX_TAG_MODULES_SERIAL = 0x304, /* text */
	WSLX_TAG_IPV4 = 0x305,           /* 4 bytes address, 1 prefix length, 4 gateway (0 = none) */
	WSLX_TAG_MTU = 0x306,            /* u32 */
	WSLX_TAG_IPV6_RA = 0x307,        /* u32 0/1 */
	WSLX_TAG_DNS = 0x308,            /* text, one address each, repeated */
	WSLX_TAG_SEARCH = 0x309,         /* text, one domain each, repeated */
	WSLX_TAG_NIC_MAC = 0x30a,        /* 6 bytes: which interface; absent = the first */
	WSLX_TAG_GREET = 0x30b,          /* u32 0/1: ask for the gateway's hardware address */
	/* DISTRO_* */
	WSLX_TAG_DISTRO = 0x401,     /* text: name */
	WSLX_TAG_SERIAL = 0x402,     /* text */
	WSLX_TAG_FSTYPE = 0x403,     /* text */
	WSLX_TAG_OPTIONS = 0x404,    /* text: mount options beside the default ones */
	WSLX_TAG_READONLY = 0x405,   /* u32 0/1 */
	WSLX_TAG_TIMEOUT_MS = 0x406, /* u32 */
	WSLX_TAG_WARNING = 0x407,    /* text, repeated */
	WSLX_TAG_HOW = 0x408,        /* u32 enum wslx_agent_shutdown */
	/* EXEC, STARTED */
	WSLX_TAG_ARG = 0x501, /* text, repeated, in order */
	WSLX_TAG_ENV = 0x502, /* text NAME=VALUE, repeated */
	WSLX_TAG_CWD = 0x503,
	WSLX_TAG_USER = 0x504,         /* name or number; "" or absent: the default user */
	WSLX_TAG_DEFAULT_USER = 0x505, /* if /etc/wsl.conf names none */
	WSLX_TAG_EXEC_FLAGS = 0x506,   /* u32 */
	WSLX_TAG_STREAMS = 0x507,      /* 3 bytes: enum wslx_agent_stream_mode of stdin, stdout, stderr */
	WSLX_TAG_WINSIZE = 0x508,      /* u16 rows, columns, x pixels, y pixels */
	WSLX_TAG_TERM = 0x509,
	WSLX_TAG_WINDOW = 0x50a, /* u32: first credit of each stream towards the sender of this message */
	WSLX_TAG_PID = 0x50b,    /* u32 in the distro's PID namespace (0 = unknown) */
	/* STATUS_REPLY */
	WSLX_TAG_UPTIME_MS = 0x601,     /* u64 */
	WSLX_TAG_LOAD = 0x602,          /* 3 x u32, hundredths */
	WSLX_TAG_MEM_TOTAL = 0x603,     /* u64 bytes */
	WSLX_TAG_MEM_AVAILABLE = 0x604, /* u64 bytes */
	WSLX_TAG_PROCESSES = 0x605,     /* u32 */
	WSLX_TAG_EXECS = 0x606,         /* u32 channels open on all connections */
	WSLX_TAG_DISTRO_STATE = 0x607,  /* u32 enum, u32 flags (1 read-only), u32 processes, then the name; repeated */
};

struct wslx_agent_tlv {
	uint32_t tag; /* without the critical bit */
	bool critical;
	const uint8_t *value;
	size_t len;
};

struct wslx_agent_tlv_it {
	const uint8_t *p;
	size_t left;
	unsigned count;
};

/* 1: *ret filled; 0: end; -EPROTO. */
WSLX_MUST_CHECK int wslx_agent_tlv_next(struct wslx_agent_tlv_it *it, struct wslx_agent_tlv *ret);
WSLX_MUST_CHECK int wslx_agent_put_tlv(struct wslx_buf *b, uint32_t tag, const void *p, size_t n);
WSLX_MUST_CHECK int wslx_agent_put_tlv_u32(struct wslx_buf *b, uint32_t tag, uint32_t v);
WSLX_MUST_CHECK int wslx_agent_put_tlv_u64(struct wslx_buf *b, uint32_t tag, uint64_t v);
WSLX_MUST_CHECK int wslx_agent_put_tlv_str(struct wslx_buf *b, uint32_t tag, const char *s);

/* ---- Messages ----
 * X_encode appends the body to an initialised buffer (0, -EMSGSIZE, -ENOMEM,
 * -EINVAL).  X_decode fills *ret or answers -EPROTO / -ENOMEM / -ENOTSUP (an
 * unknown critical tag) and leaves it empty.  X_free takes decoded structs;
 * a caller who only encodes may fill in pointers of its own and never frees. */

#define WSLX_AGENT_TEXT_MAX 1024u
#define WSLX_AGENT_HOSTNAME_MAX 64u
#define WSLX_AGENT_NAME_MAX 256u
#define WSLX_AGENT_SERIAL_MAX 20u
#define WSLX_AGENT_MAX_DNS 8u
#define WSLX_AGENT_MAX_SEARCH 6u
#define WSLX_AGENT_MAX_ARGS 8192u
#define WSLX_AGENT_MAX_ENV 4096u
#define WSLX_AGENT_MAX_WARNINGS 8u
#define WSLX_AGENT_MAX_DISTROS 64u

/* Capability bits in HELLO: what the agent can do; the host sends 0. */
#define WSLX_AGENT_CAP_EXEC (1ull << 0)
#define WSLX_AGENT_CAP_TTY (1ull << 1)
#define WSLX_AGENT_CAP_DISTRO (1ull << 2)
#define WSLX_AGENT_CAP_NET (1ull << 3)
#define WSLX_AGENT_CAP_PAUSE (1ull << 4)
#define WSLX_AGENT_CAP_STATUS (1ull << 5)
#define WSLX_AGENT_CAP_SHUTDOWN (1ull << 6)
#define WSLX_AGENT_CAP_MODULES (1ull << 7)

struct wslx_agent_hello {
	uint16_t version_min, version_max;
	uint64_t caps;
	char agent_version[64];
	char kernel_release[128];
	uint64_t boot_agent_ns, boot_modules_ns, boot_ready_ns;
};
WSLX_MUST_CHECK int wslx_agent_hello_encode(struct wslx_buf *b, const struct wslx_agent_hello *m);
WSLX_MUST_CHECK int wslx_agent_hello_decode(const uint8_t *p, size_t n, struct wslx_agent_hello *ret);
/* The version both speak, or -EPROTONOSUPPORT. */
WSLX_MUST_CHECK int wslx_agent_version_pick(const struct wslx_agent_hello *a, const struct wslx_agent_hello *b);

/* Also OK's body (code 0, text a note) . */
struct wslx_agent_error {
	int code;        /* positive Linux errno */
	int exit_status; /* what a shell would exit with, -1 = not said */
	char text[WSLX_AGENT_TEXT_MAX + 1];
};
WSLX_MUST_CHECK int wslx_agent_error_encode(struct wslx_buf *b, const struct wslx_agent_error *m);
WSLX_MUST_CHECK int wslx_agent_error_decode(const uint8_t *p, size_t n, struct wslx_agent_error *ret);

struct wslx_agent_config {
	char hostname[WSLX_AGENT_HOSTNAME_MAX + 1]; /* "" = leave */
	uint64_t time_ns;                           /* 0 = leave */
	uint8_t seed[512];
	size_t seed_len;
	char modules_serial[WSLX_AGENT_SERIAL_MAX + 1]; /* "" = no modules disk */
	bool has_mac;
	uint8_t mac[6]; /* the interface meant */
	bool has_ipv4;
	uint8_t ipv4[4], ipv4_prefix, ipv4_gateway[4];
	uint32_t mtu; /* 0 = leave */
	bool ipv6_ra;
	bool greet;                       /* send something, so that the network knows the interface */
	char dns[WSLX_AGENT_MAX_DNS][64]; /* numeric addresses */
	size_t n_dns;
	char search[WSLX_AGENT_MAX_SEARCH][254];
	size_t n_search;
};
WSLX_MUST_CHECK int wslx_agent_config_encode(struct wslx_buf *b, const struct wslx_agent_config *m);
WSLX_MUST_CHECK int wslx_agent_config_decode(const uint8_t *p, size_t n, struct wslx_agent_config *ret);

/* DISTRO_START and DISTRO_STOP (name and timeout_ms only). */
struct wslx_agent_distro {
	char name[WSLX_AGENT_NAME_MAX + 1];
	char serial[WSLX_AGENT_SERIAL_MAX + 1];
	char fstype[32];
	char hostname[WSLX_AGENT_HOSTNAME_MAX + 1]; /* "" = the machine's */
	char options[256];                          /* "" = the default ones */
	bool readonly;                              /* read-only disk: an overlay on tmpfs makes the root writable */
	uint32_t timeout_ms; /* START: for the disk to appear; STOP: until SIGKILL; 0 = default */
};
WSLX_MUST_CHECK int wslx_agent_distro_encode(struct wslx_buf *b, const struct wslx_agent_distro *m);
WSLX_MUST_CHECK int wslx_agent_distro_decode(const uint8_t *p, size_t n, struct wslx_agent_distro *ret);

struct wslx_agent_distro_started {
	bool readonly; /* the disk could not be mounted writable: changes are lost */
	char warnings[WSLX_AGENT_MAX_WARNINGS][256];
	size_t n_warnings;
};
WSLX_MUST_CHECK int wslx_agent_distro_started_encode(struct wslx_buf *b, const struct wslx_agent_distro_started *m);
WSLX_MUST_CHECK int wslx_agent_distro_started_decode(const uint8_t *p, size_t n, struct wslx_agent_distro_started *ret);

enum wslx_agent_shutdown { WSLX_AGENT_POWEROFF = 0, WSLX_AGENT_REBOOT = 1 };
WSLX_MUST_CHECK int wslx_agent_shutdown_encode(struct wslx_buf *b, enum wslx_agent_shutdown how, uint32_t timeout_ms);
WSLX_MUST_CHECK int wslx_agent_shutdown_decode(const uint8_t *p, size_t n, enum wslx_agent_shutdown *ret,
					       uint32_t *ret_timeout_ms);

/* Streams of a process. */
enum wslx_agent_stream {
	WSLX_STREAM_STDIN = 0,  /* host -> agent */
	WSLX_STREAM_STDOUT = 1, /* agent -> host */
	WSLX_STREAM_STDERR = 2, /* agent -> host */
	WSLX_STREAM_TTY = 3,    /* both: the terminal, if there is one */
	WSLX_STREAM_COUNT = 4,
};
enum wslx_agent_stream_mode { WSLX_STREAM_NULL = 0, WSLX_STREAM_PIPE = 1, WSLX_STREAM_IS_TTY = 2 };

#define WSLX_EXEC_TTY 0x1u   /* a controlling terminal; streams with IS_TTY are on it */
#define WSLX_EXEC_LOGIN 0x2u /* argv0 is "-" and the name of the shell; for shells only */
#define WSLX_EXEC_SHELL 0x4u /* argv holds one text: run it by $SHELL -c; without argv: $SHELL alone */

#define WSLX_AGENT_WINDOW_MAX (16u << 20) /* credit outstanding per stream */
#define WSLX_AGENT_WINDOW_DEFAULT (256u << 10)

struct wslx_agent_winsize {
	uint16_t rows, cols, xpixel, ypixel;
};

struct wslx_agent_exec {
	const char *distro;       /* "" or NULL: the only one */
	const char *const *argv;  /* NULL-terminated; may be empty with EXEC_SHELL or EXEC_LOGIN */
	const char *const *env;   /* NULL-terminated "NAME=VALUE": override the defaults; NULL = none */
	const char *cwd;          /* NULL or "" or "~": home */
	const char *user;         /* NULL or "": default */
	const char *default_user; /* NULL or "": root */
	const char *term;         /* NULL: none */
	uint32_t flags;           /* WSLX_EXEC_* */
	uint8_t streams[3];       /* enum wslx_agent_stream_mode */
	struct wslx_agent_winsize winsize;
	uint32_t window; /* first credit for stdout, stderr, tty each; 0 = none yet */
};
WSLX_MUST_CHECK int wslx_agent_exec_encode(struct wslx_buf *b, const struct wslx_agent_exec *m);
WSLX_MUST_CHECK int wslx_agent_exec_decode(const uint8_t *p, size_t n, struct wslx_agent_exec *ret);
void wslx_agent_exec_free(struct wslx_agent_exec *m); /* decoded ones only; leaves it empty */

struct wslx_agent_started {
	uint32_t pid;
	uint32_t window; /* first credit for stdin and tty each */
	char warnings[WSLX_AGENT_MAX_WARNINGS][256];
	size_t n_warnings; /* such as: the directory does not exist */
};
WSLX_MUST_CHECK int wslx_agent_started_encode(struct wslx_buf *b, const struct wslx_agent_started *m);
WSLX_MUST_CHECK int wslx_agent_started_decode(const uint8_t *p, size_t n, struct wslx_agent_started *ret);

struct wslx_agent_exit {
	uint32_t status; /* exit status, if signal is 0 */
	uint32_t signal;
	bool core;
};
WSLX_MUST_CHECK int wslx_agent_exit_encode(struct wslx_buf *b, const struct wslx_agent_exit *m);
WSLX_MUST_CHECK int wslx_agent_exit_decode(const uint8_t *p, size_t n, struct wslx_agent_exit *ret);

void wslx_agent_winsize_encode(const struct wslx_agent_winsize *m, uint8_t p[8]);
WSLX_MUST_CHECK int wslx_agent_winsize_decode(const uint8_t *p, size_t n, struct wslx_agent_winsize *ret);
/* CREDIT and SIGNAL bodies. */
WSLX_MUST_CHECK int wslx_agent_u32_decode(const uint8_t *p, size_t n, uint32_t *ret);

enum wslx_agent_event_kind {
	WSLX_AGENT_EV_REBOOT = 1,   /* a distro called reboot: the machine is about to reboot */
	WSLX_AGENT_EV_POWEROFF = 2, /* a distro called poweroff or halt */
	WSLX_AGENT_EV_DISTRO_DIED = 3,
	WSLX_AGENT_EV_OOM = 4,
	WSLX_AGENT_EV_WARNING = 5,
};
struct wslx_agent_event {
	uint32_t kind;
	char distro[WSLX_AGENT_NAME_MAX + 1];
	char text[WSLX_AGENT_TEXT_MAX + 1];
	uint32_t status, signal;
};
WSLX_MUST_CHECK int wslx_agent_event_encode(struct wslx_buf *b, const struct wslx_agent_event *m);
WSLX_MUST_CHECK int wslx_agent_event_decode(const uint8_t *p, size_t n, struct wslx_agent_event *ret);

enum wslx_agent_distro_state { WSLX_DISTRO_STARTING = 1, WSLX_DISTRO_RUNNING = 2, WSLX_DISTRO_STOPPING = 3 };
struct wslx_agent_status_distro {
	char name[WSLX_AGENT_NAME_MAX + 1];
	uint32_t state;
	bool readonly;
	uint32_t processes;
};
struct wslx_agent_status {
	uint64_t uptime_ms;
	uint32_t load[3]; /* hundredths */
	uint64_t mem_total, mem_available;
	uint32_t processes, execs;
	struct wslx_agent_status_distro *distros;
	size_t n_distros;
};
WSLX_MUST_CHECK int wslx_agent_status_encode(struct wslx_buf *b, const struct wslx_agent_status *m);
WSLX_MUST_CHECK int wslx_agent_status_decode(const uint8_t *p, size_t n, struct wslx_agent_status *ret);
void wslx_agent_status_free(struct wslx_agent_status *m);

#endif
