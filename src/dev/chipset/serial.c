/*
 * 16550A serial port, output only (National Semiconductor PC16550D).
 *
 * Theory of operation.  A byte written to THR goes into a ring and is at once
 * "sent": the transmitter is always empty, so the guest never waits.  The
 * loop's thread moves the ring to the console descriptor, a few milliseconds
 * after the first byte so that a line is one write and one wake-up, here and
 * for the console's reader, and not one for each character.  The descriptor
 * does not block; when nobody reads there, the ring's oldest bytes give way,
 * because the newest are what explains a crash.  A round moves at most one
 * ring's worth: a guest that writes without pause must not keep the loop from
 * its other work.
 *
 * The line is raised while a condition that the guest enabled is pending, and
 * changes only on edges, so most bytes cost no system call.
 *
 * Lock: s->lock guards all fields but the constant ones; taken on vCPU threads
 * and on the loop's thread.
 */
#include "dev/chipset/chipset.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "os/linux/fd.h"

#define RING_SIZE 65536u /* power of two */
/* Output waits for more: this long, or until there is this much. */
#define GATHER_MS 5
#define GATHER_BYTES 4096u

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_THRI 0x02
#define IER_MASK 0x0f
#define IIR_NONE 0x01
#define IIR_THRI 0x02
#define IIR_FIFO 0xc0
#define FCR_ENABLE 0x01
#define LCR_DLAB 0x80
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

struct wslx_serial {
	struct wslx_hv *hv;
	unsigned gsi;
	struct wslx_loop *loop;
	int fd;      /* console; -1 = none */
	int wake_fd; /* eventfd: the ring has become non-empty, or holds GATHER_BYTES */
	struct wslx_watch *wake_watch, *out_watch;
	struct wslx_timer *gather;

	pthread_mutex_t lock;
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	bool thre_pending, line;
	uint64_t head, tail; /* bytes ever written to and taken from the ring */
	uint64_t dropped;
	uint8_t ring[RING_SIZE];
};

static void update_line(struct wslx_serial *s)
{
	bool level = s->thre_pending && (s->ier & IER_THRI);

	if (level == s->line)
		return;
	s->line = level;
	(void)s->hv->ops->irq_line(s->hv, s->gsi, level);
}

static void wake(struct wslx_serial *s)
{
	uint64_t one = 1;

	if (write(s->wake_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: the loop is awake anyway */
}

static void put_byte(struct wslx_serial *s, uint8_t byte)
{
	if (s->fd < 0)
		return;
	if (s->head - s->tail == RING_SIZE) {
		s->tail++;
		s->dropped++;
	}
	s->ring[s->head++ % RING_SIZE] = byte;
	if (s->head - s->tail == 1 || s->head - s->tail == GATHER_BYTES)
		wake(s);
}

/* Modem status; in loopback the control outputs come back in. */
static uint8_t modem_status(const struct wslx_serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)(((s->mcr & 0x01) ? MSR_DSR : 0) | ((s->mcr & 0x02) ? MSR_CTS : 0) |
			 ((s->mcr & 0x04) ? MSR_RI : 0) | ((s->mcr & 0x08) ? MSR_DCD : 0));
}

static uint8_t read_iir(struct wslx_serial *s)
{
	uint8_t fifo = (s->fcr & FCR_ENABLE) ? IIR_FIFO : 0;

	if (!s->thre_pending || !(s->ier & IER_THRI))
		return fifo | IIR_NONE;
	/* Reading it as the source acknowledges it. */
	s->thre_pending = false;
	update_line(s);
	return fifo | IIR_THRI;
}

static uint8_t read_reg(struct wslx_serial *s, uint64_t reg)
{
	switch (reg) {
	case REG_DATA:
		return (s->lcr & LCR_DLAB) ? s->dll : 0;
	case REG_IER:
		return (s->lcr & LCR_DLAB) ? s->dlm : s->ier;
	case REG_IIR_FCR:
		return read_iir(s);
	case REG_LCR:
		return s->lcr;
	case REG_MCR:
		return s->mcr;
	case REG_LSR:
		return LSR_THRE | LSR_TEMT;
	case REG_MSR:
		return modem_status(s);
	default:
		return s->scr;
	}
}

static void write_ier(struct wslx_serial *s, uint8_t v)
{
	/* Enabling the interrupt while the transmitter is empty raises it. */
	if ((v & IER_THRI) && !(s->ier & IER_THRI))
		s->thre_pending = true;
	s->ier = v & IER_MASK;
	update_line(s);
}

static void write_data(struct wslx_serial *s, uint8_t v)
{
	if (!(s->mcr & MCR_LOOP))
		put_byte(s, v);
	s->thre_pending = true;
	update_line(s);
}

static void write_reg(struct wslx_serial *s, uint64_t reg, uint8_t v)
{
	switch (reg) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			s->dll = v;
		else
			write_data(s, v);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB)
			s->dlm = v;
		else
			write_ier(s, v);
		break;
	case REG_IIR_FCR:
		s->fcr = v & FCR_ENABLE;
		break;
	case REG_LCR:
		s->lcr = v;
		break;
	case REG_MCR:
		s->mcr = v & MCR_MASK;
		break;
	case REG_SCR:
		s->scr = v;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
}

/* A wider access touches adjacent registers, as on the ISA bus. */
static void serial_read(void *opaque, uint64_t off, void *buf, unsigned len)
{
	struct wslx_serial *s = opaque;
	uint8_t *p = buf;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < len; i++)
		p[i] = read_reg(s, off + i);
	pthread_mutex_unlock(&s->lock);
}

static void serial_write(void *opaque, uint64_t off, const void *buf, unsigned len)
{
	struct wslx_serial *s = opaque;
	const uint8_t *p = buf;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < len; i++)
		write_reg(s, off + i, p[i]);
	pthread_mutex_unlock(&s->lock);
}

const struct wslx_bus_ops wslx_serial_ops = { .read = serial_read, .write = serial_write };

enum drained { DRAIN_FULL, DRAIN_EMPTY, DRAIN_MORE };

/* Copies the oldest bytes out under the lock and writes them without it: the
 * guest must not wait for the console.  EMPTY: the ring is; FULL: the console
 * is; MORE: this round's share is done; -errno: the console is gone. */
static int drain(struct wslx_serial *s)
{
	uint8_t chunk[4096];
	uint64_t done = 0;

	while (done < RING_SIZE) {
		uint64_t from, n = 0;
		ssize_t w;

		pthread_mutex_lock(&s->lock);
		from = s->tail;
		while (n < sizeof(chunk) && from + n != s->head) {
			chunk[n] = s->ring[(from + n) % RING_SIZE];
			n++;
		}
		pthread_mutex_unlock(&s->lock);
		if (!n)
			return DRAIN_EMPTY;
		w = write(s->fd, chunk, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return errno == EAGAIN ? DRAIN_FULL : -errno;
		pthread_mutex_lock(&s->lock);
		/* The guest may have pushed the ring's tail into these bytes
		 * meanwhile: they count as dropped, but have arrived. */
		s->dropped -= WSLX_MIN(s->tail, from + (uint64_t)w) - from;
		s->tail = WSLX_MAX(s->tail, from + (uint64_t)w);
		pthread_mutex_unlock(&s->lock);
		done += (uint64_t)w;
	}
	return DRAIN_MORE;
}

static void discard(struct wslx_serial *s)
{
	pthread_mutex_lock(&s->lock);
	s->dropped += s->head - s->tail;
	s->tail = s->head;
	pthread_mutex_unlock(&s->lock);
}

static void on_writable(struct wslx_watch *w, int fd, uint32_t events, void *opaque);

static void pump(struct wslx_serial *s)
{
	int r = drain(s);

	if (r < 0)
		discard(s); /* nobody will ever read it */
	if (r == DRAIN_MORE)
		wake(s); /* and take turns with the loop's other work */
	if (r == DRAIN_FULL && !s->out_watch) {
		if (wslx_loop_watch(s->loop, s->fd, EPOLLOUT, on_writable, s, &s->out_watch) < 0)
			discard(s);
	} else if (r != DRAIN_FULL && s->out_watch) {
		wslx_watch_free(s->out_watch);
		s->out_watch = NULL;
	}
}

static void on_writable(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	pump(opaque);
}

static void on_wake(struct wslx_watch *w, int fd, uint32_t events, void *opaque)
{
	struct wslx_serial *s = opaque;
	uint64_t n;

	if (read(fd, &n, sizeof(n)) != sizeof(n))
		return;
	pthread_mutex_lock(&s->lock);
	n = s->head - s->tail;
	pthread_mutex_unlock(&s->lock);
	if (n >= GATHER_BYTES)
		pump(s);
	else
		wslx_timer_arm(s->gather, GATHER_MS);
}

static void on_gathered(struct wslx_timer *t, void *opaque)
{
	pump(opaque);
}

void wslx_serial_flush(struct wslx_serial *s, int timeout_ms)
{
	int64_t end = wslx_now_ms() + timeout_ms;
	int r;

	if (s->fd < 0)
		return;
	while ((r = drain(s)) == DRAIN_FULL || r == DRAIN_MORE) {
		struct pollfd p = { .fd = s->fd, .events = POLLOUT };
		int64_t left = end - wslx_now_ms();

		if (left <= 0 || poll(&p, 1, (int)left) <= 0)
			break;
	}
}

void wslx_serial_counts(struct wslx_serial *s, uint64_t *bytes, uint64_t *dropped)
{
	pthread_mutex_lock(&s->lock);
	*bytes = s->head;
	*dropped = s->dropped;
	pthread_mutex_unlock(&s->lock);
}

int wslx_serial_new(struct wslx_hv *hv, unsigned gsi, struct wslx_loop *loop, int fd, struct wslx_serial **ret)
{
	struct wslx_serial *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return -ENOMEM;
	s->hv = hv;
	s->gsi = gsi;
	s->loop = loop;
	s->fd = fd;
	s->dll = 1; /* 115200 */
	pthread_mutex_init(&s->lock, NULL);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_fd < 0)
		r = -errno;
	if (r == 0 && fd >= 0)
		r = wslx_fd_nonblock(fd, 1);
	if (r == 0)
		r = wslx_loop_watch(loop, s->wake_fd, EPOLLIN, on_wake, s, &s->wake_watch);
	if (r == 0)
		r = wslx_loop_timer(loop, on_gathered, s, &s->gather);
	if (r < 0) {
		wslx_serial_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void wslx_serial_free(struct wslx_serial *s)
{
	if (!s)
		return;
	wslx_watch_free(s->wake_watch);
	wslx_watch_free(s->out_watch);
	wslx_timer_free(s->gather);
	wslx_close(&s->wake_fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
