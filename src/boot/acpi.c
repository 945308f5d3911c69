/*
 * The ACPI tables: as few as Linux needs to find its CPUs, its IOAPIC, PCI and
 * the way to switch off.  Hardware-reduced (ACPI 6.5, 4.1): no fixed hardware,
 * no FACS, no SCI.
 *
 * All of it lies in the BIOS area from WSLX_BOOT_ACPI on, where also a kernel
 * that is told no RSDP address finds it (5.2.5.1).
 */
#include "boot/internal.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "boot/aml.h"
#include "dev/chipset/ports.h"
#include "dev/pci/layout.h"

#define HEADER_LEN 36
#define RSDP_LEN 36
#define XSDT_TABLES 3
#define FADT_LEN 276 /* revision 6 */
#define MCFG_LEN 60

#define LAPIC_BASE 0xfee00000u
#define IOAPIC_BASE 0xfec00000u

#define FADT_WBINVD (1u << 0)
#define FADT_NO_POWER_BUTTON (1u << 4) /* as fixed hardware */
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_RESET_REG (1u << 10)
#define FADT_HW_REDUCED (1u << 20)
#define BOOT_ARCH_NO_VGA (1u << 2)
#define BOOT_ARCH_NO_ASPM (1u << 4)

/* Where tables are put together; `at` is the next free byte. */
struct area {
	uint8_t *p;
	size_t at;
};

/* Fixed-width text without a NUL. */
static void put_text(uint8_t *p, const char *text)
{
	while (*text)
		*p++ = (uint8_t)*text++;
}

static uint8_t checksum(const uint8_t *p, size_t n)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum = (uint8_t)(sum + p[i]);
	return (uint8_t)-sum;
}

/* Room for a table, 16-byte aligned, with its header filled in; NULL when full. */
static uint8_t *table(struct area *a, const char *signature, uint8_t revision, size_t len, uint64_t *ret_gpa)
{
	size_t at = (a->at + 15) & ~(size_t)15;
	uint8_t *t = a->p + at;

	if (len > WSLX_BOOT_ACPI_LEN || at > WSLX_BOOT_ACPI_LEN - len)
		return NULL;
	put_text(t, signature);
	wslx_put_le32(t + 4, (uint32_t)len);
	t[8] = revision;
	put_text(t + 10, "WSLX  ");
	put_text(t + 16, "WSLXVMM ");
	wslx_put_le32(t + 24, 1);
	put_text(t + 28, "WSLX");
	wslx_put_le32(t + 32, 1);
	a->at = at + len;
	*ret_gpa = WSLX_BOOT_ACPI + at;
	return t;
}

static void seal(uint8_t *t)
{
	t[9] = 0;
	t[9] = checksum(t, wslx_get_le32(t + 4));
}

/* Generic Address Structure (5.2.3.2): a byte-wide port. */
static void put_port(uint8_t *p, uint16_t port)
{
	p[0] = 1; /* system I/O */
	p[1] = 8;
	p[2] = 0;
	p[3] = 1; /* byte access */
	wslx_put_le64(p + 4, port);
}

static int add_fadt(struct area *a, uint64_t dsdt, uint64_t *ret)
{
	uint8_t *t = table(a, "FACP", 6, FADT_LEN, ret);

	if (!t)
		return -ENOSPC;
	wslx_put_le32(t + 40, (uint32_t)dsdt);
	wslx_put_le16(t + 109, BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_ASPM);
	wslx_put_le32(t + 112,
		      FADT_WBINVD | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON | FADT_RESET_REG | FADT_HW_REDUCED);
	put_port(t + 116, WSLX_ACPI_RESET_PORT);
	t[128] = WSLX_ACPI_RESET_VALUE;
	t[131] = 5; /* minor version */
	wslx_put_le64(t + 140, dsdt);
	put_port(t + 244, WSLX_ACPI_SLEEP_CONTROL_PORT);
	put_port(t + 256, WSLX_ACPI_SLEEP_STATUS_PORT);
	put_text(t + 268, "WSLXKVM "); /* hypervisor vendor identity */
	seal(t);
	return 0;
}

static int add_madt(struct area *a, unsigned cpus, uint64_t *ret)
{
	size_t len = HEADER_LEN + 8 + 8 * (size_t)cpus + 12;
	uint8_t *t = table(a, "APIC", 5, len, ret), *e;

	if (!t)
		return -ENOSPC;
	wslx_put_le32(t + HEADER_LEN, LAPIC_BASE);
	wslx_put_le32(t + HEADER_LEN + 4, 0); /* no 8259s */
	e = t + HEADER_LEN + 8;
	for (unsigned i = 0; i < cpus; i++, e += 8) {
		e[0] = 0; /* local APIC */
		e[1] = 8;
		e[2] = (uint8_t)i;       /* processor UID */
		e[3] = (uint8_t)i;       /* APIC id */
		wslx_put_le32(e + 4, 1); /* enabled */
	}
	e[0] = 1; /* IOAPIC; GSI n is pin n, so there are no overrides */
	e[1] = 12;
	e[2] = 0;
	wslx_put_le32(e + 4, IOAPIC_BASE);
	wslx_put_le32(e + 8, 0);
	seal(t);
	return 0;
}

static int add_mcfg(struct area *a, uint64_t *ret)
{
	uint8_t *t = table(a, "MCFG", 1, MCFG_LEN, ret);

	if (!t)
		return -ENOSPC;
	wslx_put_le64(t + 44, WSLX_PCI_ECAM_BASE);
	wslx_put_le16(t + 52, 0); /* segment */
	t[54] = 0;
	t[55] = WSLX_PCI_ECAM_BUSES - 1;
	seal(t);
	return 0;
}

/*
 * _OSC (6.2.11, PCI Firmware 3.3, 4.5.1): the OS may have what it asks for of
 * PCIe's capability structures; hot plug, PME and AER are not there.
 */
static void add_osc(struct wslx_aml *a)
{
	static const uint8_t uuid[16] = { 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
					  0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66 };
	size_t method = wslx_aml_method(a, "_OSC", 4), block, inner;

	wslx_aml_dword_field(a, WSLX_AML_ARG0 + 3, 0, "CDW1");
	block = wslx_aml_if(a);
	wslx_aml_byte(a, 0x93); /* LEqual (Arg0, uuid) */
	wslx_aml_byte(a, WSLX_AML_ARG0);
	wslx_aml_buffer(a, uuid, sizeof(uuid));
	wslx_aml_dword_field(a, WSLX_AML_ARG0 + 3, 8, "CDW3");
	wslx_aml_byte(a, 0x7b); /* And (CDW3, 0x10, Local0) */
	wslx_aml_path(a, "CDW3");
	wslx_aml_int(a, 0x10);
	wslx_aml_byte(a, WSLX_AML_LOCAL0);
	inner = wslx_aml_if(a);
	wslx_aml_byte(a, 0x92); /* LNotEqual (Local0, CDW3): some were refused */
	wslx_aml_byte(a, 0x93);
	wslx_aml_byte(a, WSLX_AML_LOCAL0);
	wslx_aml_path(a, "CDW3");
	wslx_aml_byte(a, 0x7d); /* Or (CDW1, 0x10, CDW1) */
	wslx_aml_path(a, "CDW1");
	wslx_aml_int(a, 0x10);
	wslx_aml_path(a, "CDW1");
	wslx_aml_close(a, inner);
	wslx_aml_byte(a, 0x70); /* Store (Local0, CDW3) */
	wslx_aml_byte(a, WSLX_AML_LOCAL0);
	wslx_aml_path(a, "CDW3");
	wslx_aml_close(a, block);
	block = wslx_aml_else(a);
	wslx_aml_byte(a, 0x7d); /* Or (CDW1, 4, CDW1): not a UUID we know */
	wslx_aml_path(a, "CDW1");
	wslx_aml_int(a, 4);
	wslx_aml_path(a, "CDW1");
	wslx_aml_close(a, block);
	wslx_aml_byte(a, 0xa4); /* Return (Arg3) */
	wslx_aml_byte(a, WSLX_AML_ARG0 + 3);
	wslx_aml_close(a, method);
}

static void add_pci(struct wslx_aml *a)
{
	size_t dev = wslx_aml_device(a, "PCI0"), crs;

	wslx_aml_name(a, "_HID");
	wslx_aml_eisaid(a, "PNP0A08");
	wslx_aml_name(a, "_CID");
	wslx_aml_eisaid(a, "PNP0A03");
	wslx_aml_name(a, "_SEG");
	wslx_aml_int(a, 0);
	wslx_aml_name(a, "_UID");
	wslx_aml_int(a, 0);
	wslx_aml_name(a, "_BBN");
	wslx_aml_int(a, 0);
	crs = wslx_aml_crs(a);
	wslx_aml_bus_range(a, 0, WSLX_PCI_ECAM_BUSES - 1);
	wslx_aml_io(a, WSLX_PCI_CONFIG_PORT, 8);
	wslx_aml_io_range(a, 0, WSLX_PCI_CONFIG_PORT - 1);
	wslx_aml_io_range(a, WSLX_PCI_CONFIG_PORT + 8, UINT16_MAX);
	wslx_aml_mem32_range(a, WSLX_PCI_WIN32_BASE, WSLX_PCI_WIN32_BASE + WSLX_PCI_WIN32_LEN - 1);
	wslx_aml_mem64_range(a, WSLX_PCI_WIN64_BASE, WSLX_PCI_WIN64_BASE + WSLX_PCI_WIN64_LEN - 1);
	wslx_aml_crs_end(a, crs);
	add_osc(a);
	wslx_aml_close(a, dev);
}

static void add_legacy(struct wslx_aml *a)
{
	size_t dev, crs;

	/* Linux uses an ECAM area only if a board device reserves it
	 * (PCI Firmware 3.3, 4.1.2). */
	dev = wslx_aml_device(a, "MBRD");
	wslx_aml_name(a, "_HID");
	wslx_aml_eisaid(a, "PNP0C02");
	wslx_aml_name(a, "_UID");
	wslx_aml_int(a, 0);
	crs = wslx_aml_crs(a);
	wslx_aml_fixed32(a, WSLX_PCI_ECAM_BASE, WSLX_PCI_ECAM_LEN);
	wslx_aml_io(a, WSLX_ACPI_SLEEP_CONTROL_PORT, WSLX_ACPI_PORTS_LEN);
	wslx_aml_crs_end(a, crs);
	wslx_aml_close(a, dev);

	dev = wslx_aml_device(a, "COM1");
	wslx_aml_name(a, "_HID");
	wslx_aml_eisaid(a, "PNP0501");
	wslx_aml_name(a, "_UID");
	wslx_aml_int(a, 0);
	crs = wslx_aml_crs(a);
	wslx_aml_io(a, WSLX_COM1_PORT, 8);
	wslx_aml_irq(a, WSLX_COM1_GSI);
	wslx_aml_crs_end(a, crs);
	wslx_aml_close(a, dev);

	dev = wslx_aml_device(a, "RTC0");
	wslx_aml_name(a, "_HID");
	wslx_aml_eisaid(a, "PNP0B00");
	crs = wslx_aml_crs(a);
	wslx_aml_io(a, WSLX_RTC_PORT, 2);
	wslx_aml_crs_end(a, crs);
	wslx_aml_close(a, dev);
}

static int build_dsdt(struct wslx_aml *a)
{
	size_t mark = wslx_aml_scope(a, "\\_SB_");

	add_pci(a);
	add_legacy(a);
	wslx_aml_close(a, mark);
	wslx_aml_name(a, "_S5_");
	mark = wslx_aml_package(a, 4);
	wslx_aml_int(a, WSLX_ACPI_SLP_TYP_S5);
	for (int i = 0; i < 3; i++)
		wslx_aml_int(a, 0);
	wslx_aml_close(a, mark);
	return a->err;
}

static int add_dsdt(struct area *area, uint64_t *ret)
{
	struct wslx_aml a;
	uint8_t *t;
	int r;

	wslx_aml_init(&a);
	r = build_dsdt(&a);
	if (r == 0) {
		t = table(area, "DSDT", 2, HEADER_LEN + a.b.len, ret);
		if (t) {
			memcpy(t + HEADER_LEN, a.b.data, a.b.len);
			seal(t);
		} else {
			r = -ENOSPC;
		}
	}
	wslx_aml_free(&a);
	return r;
}

static int add_xsdt(struct area *a, const uint64_t tables[XSDT_TABLES], uint64_t *ret)
{
	uint8_t *t = table(a, "XSDT", 1, HEADER_LEN + 8 * XSDT_TABLES, ret);

	if (!t)
		return -ENOSPC;
	for (size_t i = 0; i < XSDT_TABLES; i++)
		wslx_put_le64(t + HEADER_LEN + 8 * i, tables[i]);
	seal(t);
	return 0;
}

static void fill_rsdp(uint8_t *p, uint64_t xsdt)
{
	put_text(p, "RSD PTR ");
	put_text(p + 9, "WSLX  ");
	p[15] = 2;
	wslx_put_le32(p + 20, RSDP_LEN);
	wslx_put_le64(p + 24, xsdt);
	p[8] = checksum(p, 20);
	p[32] = checksum(p, RSDP_LEN);
}

int wslx_acpi_write(struct wslx_gm *gm, unsigned cpus, uint64_t *ret_rsdp)
{
	cleanup_free uint8_t *p = calloc(1, WSLX_BOOT_ACPI_LEN);
	struct area a = { .p = p, .at = RSDP_LEN };
	uint64_t dsdt = 0, xsdt = 0, tables[XSDT_TABLES] = { 0 };
	int r;

	if (!p)
		return -ENOMEM;
	r = add_dsdt(&a, &dsdt);
	if (r == 0)
		r = add_fadt(&a, dsdt, &tables[0]);
	if (r == 0)
		r = add_madt(&a, cpus, &tables[1]);
	if (r == 0)
		r = add_mcfg(&a, &tables[2]);
	if (r == 0)
		r = add_xsdt(&a, tables, &xsdt);
	if (r < 0)
		return r;
	fill_rsdp(p, xsdt);
	*ret_rsdp = WSLX_BOOT_ACPI;
	return wslx_gm_write(gm, wslx_gpa(WSLX_BOOT_ACPI), p, a.at);
}
