/*
 * The kvm back end with tiny guests, each a few instructions of 32-bit
 * protected mode: correct on any KVM, a software-backed one included.
 * Skipped where /dev/kvm cannot be opened.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "hv/hv.h"

#define CODE_GPA 0x100000u
#define AP_GPA 0x8000u
#define GDT_GPA 0x1000u
#define MMIO_GPA 0xd0000000u
#define RAM (2 * WSLX_MIB)
#define VECTOR 0x41

/* Position-independent guest programs, kept in read-only data. */
#define GUEST(name, code)                                                                                              \
	extern const uint8_t name[], name##_end[];                                                                     \
	__asm__(".pushsection .rodata\n"                                                                               \
		".globl " #name ", " #name "_end\n" #name ":\n.code32\n" code "\n" #name "_end:\n"                     \
		".code64\n.popsection")

GUEST(guest_pio, "movw $0x3f8, %dx\n movb $'o', %al\n outb %al, %dx\n movb $'k', %al\n outb %al, %dx\n"
		 "movw $0x510, %dx\n inl %dx, %eax\n addl $1, %eax\n outl %eax, %dx\n hlt");

GUEST(guest_mmio, "movl $0xd0000000, %ebx\n movl 4(%ebx), %eax\n addl %eax, %eax\n movl %eax, 8(%ebx)\n"
		  "movb $0x7f, 13(%ebx)\n hlt");

/* An IDT of limit 0 and a fault: double fault, triple fault. */
GUEST(guest_triple, "ud2");

GUEST(guest_spin, "1: jmp 1b");

/* Builds an IDT at 0x2000 with one gate at the vector, enables the APIC, says
 * it is ready, and tells of each interrupt at port 0x80.  The handler does not
 * return: some emulators know no IRET of protected mode. */
GUEST(guest_irq, "movl $0x3000, %esp\n call 1f\n1: popl %ebp\n leal (handler - 1b)(%ebp), %eax\n"
		 "movl $0x2000, %edi\n movw %ax, 0x208(%edi)\n movw $0x10, 0x20a(%edi)\n"
		 "movw $0x8e00, 0x20c(%edi)\n shrl $16, %eax\n movw %ax, 0x20e(%edi)\n"
		 "movl $0x3000, %esp\n pushl $0x2000\n pushw $0x20f\n lidt (%esp)\n movl $0x3000, %esp\n"
		 "movl $0xfee00000, %esi\n movl $0x1ff, 0xf0(%esi)\n movl $0, 0x80(%esi)\n"
		 "movb $1, %al\n outb %al, $0x81\n sti\n"
		 "2: hlt\n jmp 2b\n"
		 "handler: movb $0x41, %al\n outb %al, $0x80\n movl $0, 0xb0(%esi)\n movl $0x3000, %esp\n sti\n"
		 "3: hlt\n jmp 3b");

/* Writes the doorbell twice, then tells. */
GUEST(guest_doorbell, "movl $0xd0000000, %ebx\n movw $3, (%ebx)\n movw $4, (%ebx)\n outb %al, $0x80\n hlt");

/* Starts processor 1 with INIT and SIPI to 0x8000 and waits. */
GUEST(guest_bsp, "movl $0xfee00000, %esi\n movl $0x1ff, 0xf0(%esi)\n"
		 "movl $0x01000000, 0x310(%esi)\n movl $0x00004500, 0x300(%esi)\n"
		 "movl $0x01000000, 0x310(%esi)\n movl $0x00004608, 0x300(%esi)\n"
		 "1: hlt\n jmp 1b");
GUEST(guest_ap, ".code16\n movb $0x5a, %al\n outb %al, $0x82\n 1: hlt\n jmp 1b\n .code32");

struct machine {
	struct wslx_gm *gm;
	struct wslx_hv *hv;
	struct wslx_vcpu *vcpu[2];
	unsigned n;
};

static int kvm_fd = -1;

static void load(struct machine *m, uint64_t gpa, const uint8_t *from, const uint8_t *to)
{
	assert_int_equal(wslx_gm_write(m->gm, wslx_gpa(gpa), from, (uint64_t)(to - from)), 0);
}

static void write_gdt(struct machine *m)
{
	static const uint64_t gdt[] = { 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067 };

	assert_int_equal(wslx_gm_write(m->gm, wslx_gpa(GDT_GPA), gdt, sizeof(gdt)), 0);
}

static void machine_new(struct machine *m, unsigned n, const uint8_t *code, const uint8_t *code_end)
{
	const struct wslx_vcpu_start start = { .rip = CODE_GPA, .rbx = 0x7000, .gdt_base = GDT_GPA, .gdt_limit = 39 };
	const struct wslx_gm_region *r;

	*m = (struct machine) { .n = n };
	assert_int_equal(wslx_gm_new(WSLX_GM_PRIVATE, RAM, &m->gm), 0);
	write_gdt(m);
	load(m, CODE_GPA, code, code_end);
	assert_int_equal(wslx_hv_kvm_new(kvm_fd, n, &m->hv), 0);
	r = wslx_gm_region(m->gm, 0);
	assert_int_equal(m->hv->ops->map(m->hv, 0, r->base, r->size, r->host, false), 0);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(m->hv->ops->vcpu_new(m->hv, i, &m->vcpu[i]), 0);
	assert_int_equal(m->hv->ops->vcpu_start_state(m->vcpu[0], &start), 0);
}

static void machine_free(struct machine *m)
{
	for (unsigned i = 0; i < m->n; i++)
		m->hv->ops->vcpu_free(m->vcpu[i]);
	m->hv->ops->free(m->hv);
	wslx_gm_free(m->gm);
}

static struct wslx_exit *run(struct machine *m)
{
	struct wslx_exit *e;

	assert_int_equal(m->hv->ops->vcpu_run(m->vcpu[0], &e), 0);
	return e;
}

static void expect_out(struct machine *m, uint16_t port, uint32_t value, unsigned size)
{
	struct wslx_exit *e = run(m);

	assert_int_equal(e->kind, WSLX_EXIT_PIO);
	assert_true(e->pio.write);
	assert_int_equal(e->pio.port, port);
	assert_int_equal(e->pio.size, size);
	assert_int_equal(e->pio.count, 1);
	assert_memory_equal(e->pio.data, &value, size);
}

static void test_pio(void **state)
{
	struct machine m;
	struct wslx_exit *e;

	machine_new(&m, 1, guest_pio, guest_pio_end);
	expect_out(&m, 0x3f8, 'o', 1);
	expect_out(&m, 0x3f8, 'k', 1);
	e = run(&m);
	assert_int_equal(e->kind, WSLX_EXIT_PIO);
	assert_false(e->pio.write);
	wslx_put_le32(e->pio.data, 41);
	expect_out(&m, 0x510, 42, 4);
	machine_free(&m);
}

static void test_mmio(void **state)
{
	struct machine m;
	struct wslx_exit *e;

	machine_new(&m, 1, guest_mmio, guest_mmio_end);
	e = run(&m);
	assert_int_equal(e->kind, WSLX_EXIT_MMIO);
	assert_false(e->mmio.write);
	assert_true(e->mmio.gpa.v == MMIO_GPA + 4);
	assert_int_equal(e->mmio.len, 4);
	wslx_put_le32(e->mmio.data, 21);
	e = run(&m);
	assert_int_equal(e->kind, WSLX_EXIT_MMIO);
	assert_true(e->mmio.write);
	assert_true(e->mmio.gpa.v == MMIO_GPA + 8);
	assert_int_equal(wslx_get_le32(e->mmio.data), 42);
	e = run(&m);
	assert_int_equal(e->kind, WSLX_EXIT_MMIO);
	assert_int_equal(e->mmio.len, 1);
	assert_int_equal(e->mmio.data[0], 0x7f);
	machine_free(&m);
}

static void test_triple_fault(void **state)
{
	struct machine m;

	machine_new(&m, 1, guest_triple, guest_triple_end);
	assert_int_equal(run(&m)->kind, WSLX_EXIT_SHUTDOWN);
	machine_free(&m);
}

static void test_kick_before_run(void **state)
{
	struct machine m;

	machine_new(&m, 1, guest_spin, guest_spin_end);
	m.hv->ops->vcpu_kick(m.vcpu[0]);
	assert_int_equal(run(&m)->kind, WSLX_EXIT_INTR);
	machine_free(&m);
}

static void *run_thread(void *opaque)
{
	struct wslx_exit *e = run(opaque);

	return (void *)(uintptr_t)e->kind;
}

static void test_kick_running(void **state)
{
	struct machine m;
	pthread_t thread;
	void *kind;

	machine_new(&m, 1, guest_spin, guest_spin_end);
	assert_int_equal(pthread_create(&thread, NULL, run_thread, &m), 0);
	/* Whether it runs already or not, one kick is enough. */
	m.hv->ops->vcpu_kick(m.vcpu[0]);
	pthread_join(thread, &kind);
	assert_int_equal((uintptr_t)kind, WSLX_EXIT_INTR);
	machine_free(&m);
}

static const struct wslx_msi msi = { .addr = 0xfee00000, .data = VECTOR };

static void test_msi(void **state)
{
	struct machine m;

	machine_new(&m, 1, guest_irq, guest_irq_end);
	expect_out(&m, 0x81, 1, 1);
	assert_int_equal(m.hv->ops->msi(m.hv, &msi), 0);
	expect_out(&m, 0x80, VECTOR, 1);
	assert_int_equal(m.hv->ops->msi(m.hv, &(struct wslx_msi) { .addr = 0x1000, .data = VECTOR }), -EINVAL);
	machine_free(&m);
}

static void test_irqfd(void **state)
{
	struct wslx_msi other = msi;
	struct machine m;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), handle;

	machine_new(&m, 1, guest_irq, guest_irq_end);
	if (!(m.hv->ops->caps(m.hv) & WSLX_HV_CAP_IRQFD)) {
		machine_free(&m);
		skip();
	}
	expect_out(&m, 0x81, 1, 1);
	/* Masked at first: the signal waits in the eventfd. */
	assert_int_equal(m.hv->ops->irqfd_msi(m.hv, fd, NULL, &handle), 0);
	assert_int_equal(eventfd_write(fd, 1), 0);
	assert_int_equal(m.hv->ops->irqfd_update(m.hv, handle, &msi), 0);
	expect_out(&m, 0x80, VECTOR, 1);
	assert_int_equal(eventfd_write(fd, 1), 0);
	expect_out(&m, 0x80, VECTOR, 1);
	/* Moved to another vector and back. */
	other.data = VECTOR + 1;
	assert_int_equal(m.hv->ops->irqfd_update(m.hv, handle, &other), 0);
	assert_int_equal(m.hv->ops->irqfd_update(m.hv, handle, NULL), 0);
	assert_int_equal(m.hv->ops->irqfd_update(m.hv, handle, &msi), 0);
	assert_int_equal(eventfd_write(fd, 1), 0);
	expect_out(&m, 0x80, VECTOR, 1);
	m.hv->ops->irqfd_release(m.hv, handle);
	assert_int_equal(m.hv->ops->irqfd_update(m.hv, handle, &msi), -EINVAL);
	assert_int_equal(m.hv->ops->irqfd_update(m.hv, -1, &msi), -EINVAL);
	machine_free(&m);
	close(fd);
}

static void test_ioeventfd(void **state)
{
	struct machine m;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t count;

	machine_new(&m, 1, guest_doorbell, guest_doorbell_end);
	if (!(m.hv->ops->caps(m.hv) & WSLX_HV_CAP_IOEVENTFD)) {
		machine_free(&m);
		skip();
	}
	assert_int_equal(m.hv->ops->ioeventfd(m.hv, wslx_gpa(MMIO_GPA), 2, fd, true), 0);
	assert_int_equal(run(&m)->kind, WSLX_EXIT_PIO);
	assert_int_equal(eventfd_read(fd, &count), 0);
	assert_int_equal(count, 2);
	assert_int_equal(m.hv->ops->ioeventfd(m.hv, wslx_gpa(MMIO_GPA), 2, fd, false), 0);
	machine_free(&m);
	close(fd);
}

static void *run_ap(void *opaque)
{
	struct machine *m = opaque;
	struct wslx_exit *e;

	do {
		if (m->hv->ops->vcpu_run(m->vcpu[1], &e) < 0)
			return NULL;
	} while (e->kind == WSLX_EXIT_INTR);
	return e->kind == WSLX_EXIT_PIO && e->pio.port == 0x82 && e->pio.data[0] == 0x5a ? m : NULL;
}

static void test_two_vcpus(void **state)
{
	pthread_t ap, bsp;
	struct machine m;
	void *ok, *kind;

	machine_new(&m, 2, guest_bsp, guest_bsp_end);
	load(&m, AP_GPA, guest_ap, guest_ap_end);
	assert_int_equal(pthread_create(&ap, NULL, run_ap, &m), 0);
	assert_int_equal(pthread_create(&bsp, NULL, run_thread, &m), 0);
	pthread_join(ap, &ok);
	assert_ptr_equal(ok, &m);
	m.hv->ops->vcpu_kick(m.vcpu[0]);
	pthread_join(bsp, &kind);
	assert_int_equal((uintptr_t)kind, WSLX_EXIT_INTR);
	machine_free(&m);
}

static void test_limits(void **state)
{
	struct wslx_vcpu *v;
	struct wslx_hv *hv;
	uint8_t byte;

	assert_int_equal(wslx_hv_kvm_new(kvm_fd, 0, &hv), -EINVAL);
	assert_int_equal(wslx_hv_kvm_new(kvm_fd, 1, &hv), 0);
	assert_int_equal(hv->ops->vcpu_new(hv, 1, &v), -EINVAL);
	assert_int_equal(hv->ops->map(hv, 0, wslx_gpa(1), 4096, &byte, false), -EINVAL);
	assert_int_equal(hv->ops->map(hv, UINT32_MAX, wslx_gpa(0), 4096, &byte, false), -ENOSPC);
	assert_int_equal(hv->ops->irq_line(hv, 24, true), -EINVAL);
	hv->ops->free(hv);
}

static void test_probe(void **state)
{
	uint64_t ns = 0;
	int r = wslx_hv_kvm_probe(kvm_fd, &ns);

	assert_true(r == 0 || r == 1);
	assert_true(ns > 0);
	print_message("probe: %s, %llu us\n", r ? "usable" : "too slow", (unsigned long long)ns / 1000);
	assert_int_equal(wslx_hv_kvm_probe(-1, &ns), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pio),          cmocka_unit_test(test_mmio),
		cmocka_unit_test(test_triple_fault), cmocka_unit_test(test_kick_before_run),
		cmocka_unit_test(test_kick_running), cmocka_unit_test(test_msi),
		cmocka_unit_test(test_irqfd),        cmocka_unit_test(test_ioeventfd),
		cmocka_unit_test(test_two_vcpus),    cmocka_unit_test(test_limits),
		cmocka_unit_test(test_probe),
	};

	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0) {
		fprintf(stderr, "skipped: /dev/kvm: %s\n", strerror(errno));
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
