/* Registers and MSRs a vCPU starts with. */
#include "hv/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"

#define CR0_PE (1u << 0)
#define CR0_ET (1u << 4)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define RFLAGS_FIXED 2u

#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS 0x20

#define MSR_IA32_MISC_ENABLE 0x1a0
#define MISC_ENABLE_FAST_STRING 1u
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLE (1u << 11)
#define MTRR_WRITE_BACK 6u

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment) {
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.g = 1,
		.l = long_mode,
		.db = !long_mode,
	};
}

static void set_segments(struct kvm_sregs *s, const struct wslx_vcpu_start *start)
{
	struct kvm_segment data = flat_segment(SEL_DATA, 3, false);

	s->cs = flat_segment(SEL_CODE, 11, start->long_mode);
	s->ds = s->es = s->ss = s->fs = s->gs = data;
	/* A busy TSS of the size the PVH entry promises. */
	s->tr = (struct kvm_segment) { .limit = 0x67, .selector = SEL_TSS, .type = 11, .present = 1 };
	s->ldt = (struct kvm_segment) { .type = 2, .unusable = 1 };
	s->gdt.base = start->gdt_base;
	s->gdt.limit = start->gdt_limit;
	s->idt.base = 0;
	s->idt.limit = 0;
}

int wslx_kvm_vcpu_start_state(struct wslx_vcpu *vcpu, const struct wslx_vcpu_start *start)
{
	struct kvm_vcpu *v = kvm_vcpu_of(vcpu);
	struct kvm_regs regs = {
		.rip = start->rip,
		.rbx = start->rbx,
		.rsi = start->rsi,
		.rflags = RFLAGS_FIXED,
	};
	struct kvm_sregs sregs = { 0 };
	int r;

	r = wslx_kvm_ioctl(v->fd, KVM_GET_SREGS, &sregs);
	if (r < 0)
		return r;
	set_segments(&sregs, start);
	sregs.cr0 = CR0_PE | CR0_ET;
	sregs.cr3 = 0;
	sregs.cr4 = 0;
	sregs.efer = 0;
	if (start->long_mode) {
		sregs.cr3 = start->cr3;
		sregs.cr4 = CR4_PAE;
		sregs.cr0 |= CR0_PG;
		sregs.efer = EFER_LME | EFER_LMA;
	}
	r = wslx_kvm_ioctl(v->fd, KVM_SET_SREGS, &sregs);
	return r < 0 ? r : wslx_kvm_ioctl(v->fd, KVM_SET_REGS, &regs);
}

int wslx_kvm_vcpu_set_msrs(struct kvm_vcpu *v)
{
	static const struct kvm_msr_entry wanted[] = {
		/* Without it Linux takes all memory for uncached. */
		{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE | MTRR_WRITE_BACK },
		{ .index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING },
	};

	/* One at a time: KVM stops at the first it refuses, and none of these is
	 * worth a failure. */
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		cleanup_free struct kvm_msrs *m = calloc(1, sizeof(*m) + sizeof(m->entries[0]));
		int r;

		if (!m)
			return -ENOMEM;
		m->nmsrs = 1;
		m->entries[0] = wanted[i];
		r = wslx_kvm_ioctl(v->fd, KVM_SET_MSRS, m);
		if (r != 1)
			log_debug("kvm: MSR 0x%x not set: %d", wanted[i].index, r);
	}
	return 0;
}
