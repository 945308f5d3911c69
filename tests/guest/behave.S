/*
 * A guest of a few instructions, started through the PVH entry.  The first
 * letter of its command line says what it does:
 *   o  print "ok", power off by ACPI      r  reset by ACPI's register
 *   k  reset by the keyboard controller   c  reset by port 0xcf9
 *   t  triple fault                       h  print "halt", halt for ever
 *   f  flood the serial port for ever     p  print the ids of the PCI functions, power off
 *   2  start a second vCPU, which prints "ap" and powers off
 *   x  access nothing: absent ports and addresses, then as o
 */
#define COM1 0x3f8
#define SLEEP_CONTROL 0x600
#define RESET_REG 0x602
#define START_INFO_CMDLINE 24
#define ECAM 0xe0000000
#define APIC 0xfee00000
#define AP_PAGE 0x8000

	.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

	.text
	.code32
	.globl start
start:
	movl $stack_top, %esp
	movl START_INFO_CMDLINE(%ebx), %esi
	movb (%esi), %bl
	movl $table, %edi
1:	movb (%edi), %al
	testb %al, %al
	jz halt
	cmpb %al, %bl
	je 2f
	addl $5, %edi
	jmp 1b
2:	jmp *1(%edi)

table:
	.byte 'o'
	.long do_ok
	.byte 'r'
	.long do_reset
	.byte 'k'
	.long do_keyboard
	.byte 'c'
	.long do_cf9
	.byte 't'
	.long do_triple
	.byte 'h'
	.long do_halt
	.byte 'f'
	.long do_flood
	.byte 'p'
	.long do_pci
	.byte '2'
	.long do_ap
	.byte 'x'
	.long do_absent
	.byte 0

do_absent:
	movw $0x1234, %dx
	inl %dx, %eax
	outl %eax, %dx
	movl $0xd0000000, %ebx
	movl (%ebx), %eax
	cmpl $-1, %eax
	jne halt
	movl %eax, (%ebx)
do_ok:
	movl $msg_ok, %esi
	call puts
poweroff:
	movw $SLEEP_CONTROL, %dx
	movb $0x34, %al /* SLP_EN, SLP_TYP 5 */
	outb %al, %dx
halt:
	hlt
	jmp halt

do_reset:
	movw $RESET_REG, %dx
	movb $0x42, %al
	outb %al, %dx
	jmp halt

do_keyboard:
	movb $0xfe, %al
	outb %al, $0x64
	jmp halt

do_cf9:
	movw $0xcf9, %dx
	movb $6, %al
	outb %al, %dx
	jmp halt

do_triple:
	lidt null_idt
	ud2

do_halt:
	movl $msg_halt, %esi
	call puts
	jmp halt

do_flood:
	movw $COM1, %dx
	movb $'#', %al
1:	outb %al, %dx
	jmp 1b

	/* Vendor and device of function 0 of each slot that has one. */
do_pci:
	xorl %ebp, %ebp
1:	movl %ebp, %eax
	shll $15, %eax
	movl ECAM(%eax), %eax
	cmpw $-1, %ax
	je 2f
	pushl %eax
	movl %ebp, %eax
	movl $2, %ecx
	call put_hex
	movb $' ', %al
	call putc
	popl %eax
	movl $8, %ecx
	call put_hex
	movb $'\n', %al
	call putc
2:	incl %ebp
	cmpl $32, %ebp
	jb 1b
	jmp poweroff

do_ap:
	movl $ap_code, %esi
	movl $AP_PAGE, %edi
	movl $(ap_code_end - ap_code), %ecx
	cld
	rep movsb
	movl $APIC, %esi
	movl $0x1ff, 0xf0(%esi)
	movl $0x01000000, 0x310(%esi)
	movl $0x00004500, 0x300(%esi) /* INIT */
	movl $0x01000000, 0x310(%esi)
	movl $(0x00004600 | AP_PAGE >> 12), 0x300(%esi) /* SIPI */
	jmp halt

	.code16
ap_code:
	movw $COM1, %dx
	movb $'a', %al
	outb %al, %dx
	movb $'p', %al
	outb %al, %dx
	movb $'\n', %al
	outb %al, %dx
	movw $SLEEP_CONTROL, %dx
	movb $0x34, %al
	outb %al, %dx
1:	hlt
	jmp 1b
ap_code_end:
	.code32

putc:
	movw $COM1, %dx
	outb %al, %dx
	ret

puts:
	lodsb
	testb %al, %al
	jz 1f
	call putc
	jmp puts
1:	ret

	/* The last %ecx digits of %eax. */
put_hex:
	movl %eax, %edi
1:	decl %ecx
	js 2f
	movl %edi, %eax
	shll $2, %ecx
	shrl %cl, %eax
	shrl $2, %ecx
	andb $15, %al
	addb $'0', %al
	cmpb $'9', %al
	jbe 3f
	addb $('a' - '0' - 10), %al
3:	call putc
	jmp 1b
2:	ret

	.data
null_idt:
	.word 0
	.long 0
msg_ok:
	.asciz "ok\n"
msg_halt:
	.asciz "halt\n"
	.bss
	.space 1024
stack_top:

	.section .note.GNU-stack, "", @progbits
