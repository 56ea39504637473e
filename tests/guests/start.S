/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a test guest begins: the PVH entry (32-bit, no paging, EBX = hvm_start_info), then long mode with the
 * first 4 GiB mapped one to one, then guest_main(start_info). Other processors come by SIPI to 0x8000, where
 * guest.c has copied ap_start, and end in guest_ap(index).
 */
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start

    .section .text.start, "ax"
    .code32
    .globl pvh_start
pvh_start:
    mov $boot_stack_end, %esp
    mov %ebx, %edi
    call tables_make
    call long_mode_on
    lgdt gdt_pointer
    ljmp $8, $start64

/* Identity tables of 2 MiB pages. */
tables_make:
    movl $pdpt + 3, pml4
    movl $page_directories + 3, %eax
    mov $pdpt, %edx
    mov $4, %ecx
1:  mov %eax, (%edx)
    add $4096, %eax
    add $8, %edx
    loop 1b
    mov $0x83, %eax
    mov $page_directories, %edx
    mov $2048, %ecx
2:  mov %eax, (%edx)
    add $0x200000, %eax
    add $8, %edx
    loop 2b
    ret

long_mode_on:
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax
    mov %eax, %cr0
    ret

    .code64
start64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $boot_stack_end, %rsp
    mov %edi, %edi
    call guest_main
1:  hlt
    jmp 1b

/* Copied to 0x8000: real mode, CS = 0x800. */
    .code16
    .globl ap_start, ap_end
ap_start:
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl ap_gdt_pointer - ap_start
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $24, $ap_start32
    .align 4
ap_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
ap_end:

    .code32
ap_start32:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $ap_stack_end, %esp
    call long_mode_on
    ljmp $8, $ap_start64

    .code64
ap_start64:
    mov $ap_stack_end, %rsp
    call guest_ap
1:  hlt
    jmp 1b

/* Interrupt 32: counts, and tells the local APIC. */
    .globl interrupt_entry
interrupt_entry:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    call guest_interrupt
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    iretq

    .section .data
    .align 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

    .section .bss
    .align 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
page_directories:
    .skip 16384
boot_stack:
    .skip 16384
boot_stack_end:
ap_stack:
    .skip 16384
ap_stack_end:

    .section .note.GNU-stack, "", @progbits
