/*
 * Is this KVM worth using?  Some hosts offer a /dev/kvm that opens, creates
 * machines, and then emulates every guest instruction a thousand times too
 * slowly for a kernel.  So a counted loop is run and timed: 40,000
 * instructions take some ten microseconds on hardware and well over five
 * milliseconds there.  What an entry and an exit cost, much where KVM is
 * nested, is told apart by a short loop and subtracted.
 */
#include "hv/kvm/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/loop.h"

#define PROBE_USABLE_NS 2000000u
#define PROBE_LONG 20000u
#define PROBE_SHORT 100u
#define PROBE_HOPELESS_NS 20000000u
#define PROBE_ROUNDS 3
#define PROBE_CODE_GPA 0x1000u
#define PROBE_GDT_GPA 0x800u

/* 32-bit protected mode. */
static const uint8_t probe_code[] = {
	0xb9, 0x00, 0x00, 0x00, 0x00, /* mov ecx, count: written before each run */
	0x49,                         /* 1: dec ecx */
	0x75, 0xfd,                   /* jnz 1b */
	0xb0, 0x5a,                   /* mov al, 0x5a */
	0xe6, 0x80,                   /* out 0x80, al */
};

struct probe {
	int vm, vcpu;
	uint8_t *mem;
	struct kvm_run *run;
	size_t mem_size, run_size;
};

static void probe_free(struct probe *p)
{
	if (p->run)
		munmap(p->run, p->run_size);
	if (p->mem)
		munmap(p->mem, p->mem_size);
	wslx_close(&p->vcpu);
	wslx_close(&p->vm);
}

static int map(void **ret, size_t size, int flags, int fd)
{
	void *m = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (m == MAP_FAILED)
		return -errno;
	*ret = m;
	return 0;
}

static int probe_setup(struct probe *p, int kvm_fd)
{
	struct kvm_userspace_memory_region region = { 0 };
	uint64_t identity = KVM_IDENTITY_MAP_ADDRESS;
	void *m = NULL;
	int r;

	p->vm = wslx_kvm_ioctl(kvm_fd, KVM_CREATE_VM, NULL);
	if (p->vm < 0)
		return p->vm;
	(void)wslx_kvm_ioctl(p->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	(void)wslx_kvm_ioctl(p->vm, KVM_SET_TSS_ADDR, (void *)(uintptr_t)KVM_TSS_ADDRESS);
	p->mem_size = 2 * WSLX_PAGE_SIZE;
	r = map(&m, p->mem_size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (r < 0)
		return r;
	p->mem = m;
	memcpy(p->mem + PROBE_CODE_GPA, probe_code, sizeof(probe_code));
	region.memory_size = p->mem_size;
	region.userspace_addr = (uintptr_t)p->mem;
	r = wslx_kvm_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region);
	if (r < 0)
		return r;
	p->vcpu = wslx_kvm_ioctl(p->vm, KVM_CREATE_VCPU, NULL);
	if (p->vcpu < 0)
		return p->vcpu;
	r = wslx_kvm_ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	if (r < 0)
		return r;
	p->run_size = (size_t)r;
	r = map(&m, p->run_size, MAP_SHARED, p->vcpu);
	if (r == 0)
		p->run = m;
	return r;
}

static int timed_run(struct probe *p, uint32_t count, uint64_t *best_ns)
{
	struct kvm_vcpu v = { .fd = p->vcpu };
	const struct wslx_vcpu_start start = { .rip = PROBE_CODE_GPA, .gdt_base = PROBE_GDT_GPA };
	uint64_t t0;
	int r;

	wslx_put_le32(p->mem + PROBE_CODE_GPA + 1, count);
	r = wslx_kvm_vcpu_start_state(&v.vcpu, &start);
	if (r < 0)
		return r;
	t0 = wslx_now_ns();
	r = wslx_kvm_ioctl(p->vcpu, KVM_RUN, NULL);
	t0 = wslx_now_ns() - t0;
	if (r < 0)
		return r;
	if (p->run->exit_reason != KVM_EXIT_IO || p->run->io.port != 0x80 || p->run->io.data_offset >= p->run_size ||
	    ((uint8_t *)p->run)[p->run->io.data_offset] != 0x5a)
		return -EIO;
	*best_ns = WSLX_MIN(*best_ns, t0);
	return 0;
}

int wslx_hv_kvm_probe(int kvm_fd, uint64_t *ret_ns)
{
	struct probe p = { .vm = -1, .vcpu = -1 };
	uint64_t short_ns = UINT64_MAX, long_ns = UINT64_MAX, ns = UINT64_MAX;
	int r = probe_setup(&p, kvm_fd);

	/* The best of all short runs comes first: one that was held up would hide
	 * how long the long ones take. */
	for (int i = 0; r == 0 && i < PROBE_ROUNDS; i++)
		r = timed_run(&p, PROBE_SHORT, &short_ns);
	for (int i = 0; r == 0 && i < PROBE_ROUNDS; i++) {
		r = timed_run(&p, PROBE_LONG, &long_ns);
		ns = long_ns > short_ns ? long_ns - short_ns : 1;
		if (ns < PROBE_USABLE_NS || ns > PROBE_HOPELESS_NS)
			break;
	}
	probe_free(&p);
	if (r < 0)
		return r;
	if (ret_ns)
		*ret_ns = ns;
	return ns < PROBE_USABLE_NS;
}
