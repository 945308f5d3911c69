/*
 * Where PCI lives in the machine's address space: what the host bridge decodes
 * and what the ACPI tables say of it.  Constants only.  docs/architecture.md,
 * memory map.
 */
#ifndef WSLX_DEV_PCI_LAYOUT_H
#define WSLX_DEV_PCI_LAYOUT_H

#define WSLX_PCI_ECAM_BASE 0xe0000000u
#define WSLX_PCI_ECAM_BUSES 16u
#define WSLX_PCI_ECAM_LEN (WSLX_PCI_ECAM_BUSES << 20)
#define WSLX_PCI_WIN32_BASE 0xc0000000u
#define WSLX_PCI_WIN32_LEN 0x20000000u
#define WSLX_PCI_WIN64_BASE 0x4000000000ull
#define WSLX_PCI_WIN64_LEN 0x4000000000ull

#endif
