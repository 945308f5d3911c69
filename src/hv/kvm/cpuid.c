/*
 * What the guest sees of the CPU: the host's supported CPUID, with
 *   - topology of one package with a core for each vCPU (leaves 1, 4, 0xb,
 *     0x1f, 0x80000008, 0x8000001e),
 *   - the hypervisor bit and KVM's own leaves 0x4000000x,
 *   - the TSC-deadline timer where KVM emulates it,
 *   - no nested virtualization and no performance counters: much kernel code
 *     behind an untrusted guest.
 */
#include "hv/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define MAX_ENTRIES 256

#define L1_ECX_VMX (1u << 5)
#define L1_ECX_TSC_DEADLINE (1u << 24)
#define L1_ECX_OSXSAVE (1u << 27)
#define L1_ECX_HYPERVISOR (1u << 31)
#define L1_EDX_HTT (1u << 28)
#define L8_1_ECX_SVM (1u << 2)
#define L8_1_ECX_CMP_LEGACY (1u << 1)

#define LEVEL_SMT 1u
#define LEVEL_CORE 2u

int wslx_kvm_cpuid_get(int kvm_fd, struct kvm_cpuid2 **ret)
{
	cleanup_free struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX_ENTRIES * sizeof(c->entries[0]));
	int r;

	if (!c)
		return -ENOMEM;
	c->nent = MAX_ENTRIES;
	r = wslx_kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(c);
	return 0;
}

/* Bits needed to number n things. */
static unsigned id_bits(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

static void set_leaf1(struct kvm_cpuid_entry2 *e, unsigned index, unsigned n, bool tsc_deadline)
{
	unsigned logical = 1u << id_bits(n);

	e->ebx = (e->ebx & 0x0000ffff) | (logical << 16) | (index << 24);
	e->ecx &= ~(L1_ECX_VMX | L1_ECX_OSXSAVE);
	e->ecx |= L1_ECX_HYPERVISOR;
	if (tsc_deadline)
		e->ecx |= L1_ECX_TSC_DEADLINE;
	e->edx &= ~L1_EDX_HTT;
	if (n > 1)
		e->edx |= L1_EDX_HTT;
}

/* Caches: levels 1 and 2 belong to a core, level 3 to the package. */
static void set_cache(struct kvm_cpuid_entry2 *e, unsigned n)
{
	unsigned cores = (1u << id_bits(n)) - 1, level = (e->eax >> 5) & 7;

	if (!(e->eax & 0x1f))
		return;
	e->eax &= 0x3fff;
	e->eax |= (cores & 0x3f) << 26;
	if (level >= 3)
		e->eax |= cores << 14;
}

/* As leaf 4, for AMD: only "sharing threads" is there. */
static void set_cache_amd(struct kvm_cpuid_entry2 *e, unsigned n)
{
	unsigned level = (e->eax >> 5) & 7;

	if (!(e->eax & 0x1f))
		return;
	e->eax &= ~(0xfffu << 14);
	if (level >= 3)
		e->eax |= (n - 1) << 14;
}

static void set_topology(struct kvm_cpuid_entry2 *e, unsigned index, unsigned n)
{
	e->eax = e->ebx = 0;
	e->ecx = e->index;
	e->edx = index;
	if (e->index == 0) {
		e->ebx = 1;
		e->ecx |= LEVEL_SMT << 8;
	} else if (e->index == 1) {
		e->eax = id_bits(n);
		e->ebx = n;
		e->ecx |= LEVEL_CORE << 8;
	}
}

static void filter(struct kvm_cpuid_entry2 *e, unsigned index, unsigned n, bool tsc_deadline)
{
	switch (e->function) {
	case 0x1:
		set_leaf1(e, index, n, tsc_deadline);
		break;
	case 0x4:
		set_cache(e, n);
		break;
	case 0xa:
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	case 0xb:
	case 0x1f:
		set_topology(e, index, n);
		break;
	case 0x80000001:
		e->ecx &= ~(L8_1_ECX_SVM | L8_1_ECX_CMP_LEGACY);
		if (n > 1)
			e->ecx |= L8_1_ECX_CMP_LEGACY;
		break;
	case 0x80000008:
		e->ecx = (e->ecx & ~0xf0ffu) | (id_bits(n) << 12) | (n - 1);
		break;
	case 0x8000000a:
	case 0x80000022:
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	case 0x8000001d:
		set_cache_amd(e, n);
		break;
	case 0x8000001e:
		e->eax = index;
		e->ebx = index & 0xff; /* one thread a core */
		e->ecx = 0;            /* one node */
		break;
	default:
		break;
	}
}

/* KVM lists only subleaf 0 of the topology leaves on some hosts; both levels
 * must be there, ended by an empty one. */
static void complete_topology(struct kvm_cpuid2 *c, uint32_t leaf, unsigned index, unsigned n)
{
	bool have[3] = { false };
	bool any = false;

	for (uint32_t i = 0; i < c->nent; i++) {
		if (c->entries[i].function != leaf)
			continue;
		any = true;
		if (c->entries[i].index < 3)
			have[c->entries[i].index] = true;
	}
	for (uint32_t sub = 0; any && sub < 3; sub++) {
		struct kvm_cpuid_entry2 *e;

		if (have[sub] || c->nent == MAX_ENTRIES)
			continue;
		e = &c->entries[c->nent++];
		*e = (struct kvm_cpuid_entry2) { .function = leaf,
						 .index = sub,
						 .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
		set_topology(e, index, n);
	}
}

int wslx_kvm_cpuid_for(const struct kvm_cpuid2 *host, unsigned index, unsigned n, bool tsc_deadline,
		       struct kvm_cpuid2 **ret)
{
	struct kvm_cpuid2 *c;

	if (!n || index >= n || n > 255 || host->nent > MAX_ENTRIES)
		return -EINVAL;
	c = calloc(1, sizeof(*c) + MAX_ENTRIES * sizeof(c->entries[0]));
	if (!c)
		return -ENOMEM;
	c->nent = host->nent;
	memcpy(c->entries, host->entries, host->nent * sizeof(c->entries[0]));
	for (uint32_t i = 0; i < c->nent; i++)
		filter(&c->entries[i], index, n, tsc_deadline);
	complete_topology(c, 0xb, index, n);
	complete_topology(c, 0x1f, index, n);
	*ret = c;
	return 0;
}
