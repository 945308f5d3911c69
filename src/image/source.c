#include "image/source.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCKS 6u
#define BLOCK_SIZE ((size_t)1 << 20)
#define RAW_SIZE ((size_t)256 << 10)
#define WAIT_MS 100

struct wslx_source {
	int fd;
	bool regular;
	uint64_t total;
	_Atomic uint64_t read_bytes;
	pthread_t thread;

	pthread_mutex_t lock; /* guards what follows, down to the thread's part */
	pthread_cond_t filled, emptied;
	uint8_t *block[BLOCKS];
	size_t len[BLOCKS];
	unsigned head, count; /* count includes the one the consumer holds */
	bool held, ended, stop;
	int error;
	const char *problem; /* with error */
	const char *compression;

	/* The thread's. */
	uint8_t *raw;
	size_t raw_at, raw_len;
	bool raw_end;
	unsigned cur;
	size_t cur_len;
};

static bool stopped(struct wslx_source *s)
{
	pthread_mutex_lock(&s->lock);
	bool stop = s->stop;

	pthread_mutex_unlock(&s->lock);
	return stop;
}

/* Up to n bytes of the input; 0 at its end.  -ECANCELED when stopped. */
static ssize_t read_input(struct wslx_source *s, void *buf, size_t n)
{
	for (;;) {
		struct pollfd p = { .fd = s->fd, .events = POLLIN };

		if (stopped(s))
			return -ECANCELED;
		/* A pipe may be silent for long: come back to look at `stop`. */
		if (!s->regular && poll(&p, 1, WAIT_MS) == 0)
			continue;
		ssize_t r = read(s->fd, buf, n);

		if (r >= 0) {
			atomic_fetch_add_explicit(&s->read_bytes, (uint64_t)r, memory_order_relaxed);
			return r;
		}
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
}

static void push(struct wslx_source *s)
{
	if (!s->cur_len)
		return;
	pthread_mutex_lock(&s->lock);
	s->len[s->cur] = s->cur_len;
	s->count++;
	pthread_cond_signal(&s->filled);
	pthread_mutex_unlock(&s->lock);
	s->cur = (s->cur + 1) % BLOCKS;
	s->cur_len = 0;
}

/* Waits until the current block is free. */
static int need_block(struct wslx_source *s)
{
	int r = 0;

	if (s->cur_len == BLOCK_SIZE)
		push(s);
	if (s->cur_len)
		return 0;
	pthread_mutex_lock(&s->lock);
	while (s->count == BLOCKS && !s->stop)
		pthread_cond_wait(&s->emptied, &s->lock);
	if (s->stop)
		r = -ECANCELED;
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int fill_raw(struct wslx_source *s)
{
	if (s->raw_at < s->raw_len || s->raw_end)
		return 0;
	ssize_t r = read_input(s, s->raw, RAW_SIZE);

	if (r < 0)
		return (int)r;
	s->raw_at = 0;
	s->raw_len = (size_t)r;
	s->raw_end = r == 0;
	return 0;
}

static int copy_plain(struct wslx_source *s)
{
	int r = 0;

	while (r == 0) {
		r = need_block(s);
		if (r < 0)
			break;
		uint8_t *to = s->block[s->cur] + s->cur_len;
		size_t room = BLOCK_SIZE - s->cur_len;

		if (s->raw_at < s->raw_len) {
			size_t n = s->raw_len - s->raw_at < room ? s->raw_len - s->raw_at : room;

			memcpy(to, s->raw + s->raw_at, n);
			s->raw_at += n;
			s->cur_len += n;
			continue;
		}
		ssize_t n = read_input(s, to, room);

		if (n <= 0)
			return (int)n;
		s->cur_len += (size_t)n;
	}
	return r;
}

/* One stream after the other; what follows the last and is none is ignored,
 * as gzip and tar do with padding. */
static int decode(struct wslx_source *s, const struct wslx_decoder_ops *ops)
{
	struct wslx_decoder *d = wslx_decoder_new(ops);
	bool between = false;
	int r = d ? 0 : -ENOMEM;

	while (r == 0) {
		r = fill_raw(s);
		if (r < 0)
			break;
		if (between && s->raw_at < s->raw_len) {
			if (s->raw_len - s->raw_at < 8 && !s->raw_end) {
				/* Too few bytes to tell: move them down and read on. */
				memmove(s->raw, s->raw + s->raw_at, s->raw_len - s->raw_at);
				s->raw_len -= s->raw_at;
				s->raw_at = 0;
				ssize_t n = read_input(s, s->raw + s->raw_len, RAW_SIZE - s->raw_len);

				if (n < 0)
					r = (int)n;
				else if (n == 0)
					s->raw_end = true;
				else
					s->raw_len += (size_t)n;
				continue;
			}
			if (wslx_decoder_detect(s->raw + s->raw_at, s->raw_len - s->raw_at) != ops)
				break;
			wslx_decoder_free(d);
			d = wslx_decoder_new(ops);
			between = false;
			if (!d) {
				r = -ENOMEM;
				break;
			}
		}
		if (s->raw_at == s->raw_len && s->raw_end && between)
			break;
		r = need_block(s);
		if (r < 0)
			break;
		const uint8_t *in = s->raw + s->raw_at;
		uint8_t *out = s->block[s->cur] + s->cur_len;
		size_t in_len = s->raw_len - s->raw_at, room = BLOCK_SIZE - s->cur_len;
		size_t in_before = in_len, room_before = room;

		r = ops->step(d, &in, &in_len, &out, &room, s->raw_end);
		s->raw_at = s->raw_len - in_len;
		s->cur_len = BLOCK_SIZE - room;
		if (r == 1) {
			between = true;
			r = 0;
		} else if (r == 0 && s->raw_end && in_before == in_len && room_before == room) {
			s->problem = "it ends early: truncated?";
			r = -EBADMSG;
		}
	}
	wslx_decoder_free(d);
	return r;
}

static void *source_main(void *arg)
{
	struct wslx_source *s = arg;
	int r = 0;

	/* Enough to tell the compression by, even from a slow pipe. */
	while (s->raw_len < 8 && !s->raw_end && r == 0) {
		ssize_t n = read_input(s, s->raw + s->raw_len, RAW_SIZE - s->raw_len);

		if (n < 0)
			r = (int)n;
		else if (n == 0)
			s->raw_end = true;
		else
			s->raw_len += (size_t)n;
	}
	const struct wslx_decoder_ops *ops = wslx_decoder_detect(s->raw, s->raw_len);

	pthread_mutex_lock(&s->lock);
	s->compression = ops ? ops->name : "";
	pthread_mutex_unlock(&s->lock);
	if (r == 0)
		r = ops ? decode(s, ops) : copy_plain(s);
	if (r == 0)
		push(s);
	pthread_mutex_lock(&s->lock);
	s->error = r;
	s->ended = true;
	pthread_cond_signal(&s->filled);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void free_source(struct wslx_source *s)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		free(s->block[i]);
	free(s->raw);
	free(s);
}

int wslx_source_open(int in_fd, struct wslx_source **ret)
{
	struct wslx_source *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;
	sigset_t all, old;
	struct stat st;
	int r = 0;

	if (!s)
		return -ENOMEM;
	s->fd = in_fd;
	s->compression = "";
	if (fstat(in_fd, &st) < 0)
		r = -errno;
	s->regular = r == 0 && S_ISREG(st.st_mode);
	if (s->regular) {
		off_t at = lseek(in_fd, 0, SEEK_CUR);

		s->total = at >= 0 && st.st_size > at ? (uint64_t)(st.st_size - at) : 0;
	}
	for (unsigned i = 0; i < BLOCKS && r == 0; i++) {
		s->block[i] = malloc(BLOCK_SIZE);
		if (!s->block[i])
			r = -ENOMEM;
	}
	s->raw = malloc(RAW_SIZE);
	if (!s->raw)
		r = -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->filled, &attr);
	pthread_cond_init(&s->emptied, NULL);
	pthread_condattr_destroy(&attr);
	if (r == 0) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		r = -pthread_create(&s->thread, NULL, source_main, s);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	if (r < 0) {
		free_source(s);
		return r;
	}
	*ret = s;
	return 0;
}

void wslx_source_close(struct wslx_source *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_signal(&s->emptied);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	free_source(s);
}

ssize_t wslx_source_next(struct wslx_source *s, const void **ret)
{
	struct timespec until;
	ssize_t r = 0;
	int late = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WAIT_MS * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_nsec -= 1000000000L;
		until.tv_sec++;
	}
	pthread_mutex_lock(&s->lock);
	if (s->held) {
		s->held = false;
		s->head = (s->head + 1) % BLOCKS;
		s->count--;
		pthread_cond_signal(&s->emptied);
	}
	while (!s->count && !s->ended && !late)
		late = pthread_cond_timedwait(&s->filled, &s->lock, &until);
	if (s->count) {
		s->held = true;
		*ret = s->block[s->head];
		r = (ssize_t)s->len[s->head];
	} else if (s->ended) {
		r = s->error;
	} else {
		r = -EAGAIN;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

int wslx_source_error(struct wslx_source *s, struct wslx_err *err)
{
	pthread_mutex_lock(&s->lock);
	int r = s->error;
	const char *problem = s->problem, *compression = s->compression;

	pthread_mutex_unlock(&s->lock);
	switch (r) {
	case -EBADMSG:
		return wslx_err_set(err, EBADMSG, "corrupt %s data%s%s", compression, problem ? ": " : "",
				    problem ? problem : "");
	case -ENOMEM:
		return wslx_err_set(err, ENOMEM, "%s data that needs more memory to unpack than is allowed",
				    *compression ? compression : "its");
	case -ECANCELED:
		return wslx_err_set(err, ECANCELED, "interrupted");
	default:
		return wslx_err_sys(err, -r, "cannot read");
	}
}

uint64_t wslx_source_read_bytes(const struct wslx_source *s)
{
	return atomic_load_explicit(&s->read_bytes, memory_order_relaxed);
}

uint64_t wslx_source_total_bytes(const struct wslx_source *s)
{
	return s->total;
}

const char *wslx_source_compression(const struct wslx_source *s)
{
	return s->compression;
}
