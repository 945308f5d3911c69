/*
 * Fixed ports and interrupt lines of the machine: what the chipset decodes and
 * the ACPI tables promise.  GSI n is IOAPIC pin n, with no overrides.
 */
#ifndef WSLX_DEV_CHIPSET_PORTS_H
#define WSLX_DEV_CHIPSET_PORTS_H

#define WSLX_COM1_PORT 0x3f8
#define WSLX_COM1_GSI 4

/* Hardware-reduced ACPI (ACPI 6.5, 4.8.3.7): FADT's SLEEP_CONTROL_REG,
 * SLEEP_STATUS_REG and RESET_REG are system-I/O, byte wide.  S5 is
 * SLP_TYP 5: the DSDT's \_S5 names it. */
#define WSLX_ACPI_SLEEP_CONTROL_PORT 0x600
#define WSLX_ACPI_SLEEP_STATUS_PORT 0x601
#define WSLX_ACPI_RESET_PORT 0x602
#define WSLX_ACPI_PORTS_LEN 0x10
#define WSLX_ACPI_RESET_VALUE 0x42
#define WSLX_ACPI_SLP_TYP_S5 5

#define WSLX_I8042_PORT 0x64
#define WSLX_RESET_CONTROL_PORT 0xcf9
#define WSLX_RTC_PORT 0x70
#define WSLX_PCI_CONFIG_PORT 0xcf8 /* and 0xcfc: owned by dev/pci; 0xcf9 is ours */

#endif
