/* What keeps the kernel's module requests cheap; see modprobe_gate.c. */
#ifndef WSLX_AGENT_MODPROBE_GATE_H
#define WSLX_AGENT_MODPROBE_GATE_H

#include <stdint.h>

#define GATE_NAMES 256u
#define GATE_NAME_SIZE 64u /* the kernel's names have at most 55 characters (linux/module.h) */
#define GATE_BURST 64u
#define GATE_PERIOD_NS UINT64_C(100000000)
#define GATE_WAIT_MAX_NS UINT64_C(2000000000)

struct modprobe_gate {
	uint64_t paid_until; /* boottime until which searches are paid for */
	uint32_t next;       /* slot of the next name */
	char names[GATE_NAMES][GATE_NAME_SIZE];
};

enum modprobe_answer {
	MODPROBE_SEARCH, /* after *ret_wait; then modprobe_gate_end */
	MODPROBE_MISS,   /* there is no such module */
	MODPROBE_REFUSED,
};
enum modprobe_answer modprobe_gate_ask(struct modprobe_gate *g, const char *name, uint64_t now, uint64_t *ret_wait);

enum modprobe_outcome { MODPROBE_NOT_FOUND, MODPROBE_LOADED, MODPROBE_NOTHING_NEW };
void modprobe_gate_end(struct modprobe_gate *g, const char *name, enum modprobe_outcome what);

/* Locked until it is closed, which writes it back.  A descriptor or -errno. */
int modprobe_gate_open(const char *path, struct modprobe_gate *ret);
void modprobe_gate_close(int fd, const struct modprobe_gate *g);

#endif
