/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Its first instructions send one byte to the serial port; then it sleeps. As an ELF with a PVH entry (a kernel), or, with
 * AS_FIRMWARE, as an image whose reset vector is the entry: the earliest that any machine can run something.
 */
    .section .text
#ifndef AS_FIRMWARE
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start

    .section .text.start, "ax"
    .code32
    .globl pvh_start
pvh_start:
    mov $0x3f8, %dx
    mov $'!', %al
    out %al, %dx
    cli
1:  hlt
    jmp 1b
#else
    .code16
    .skip 0xffd0
entry:
    mov $0x3f8, %dx
    mov $'!', %al
    out %al, %dx
    cli
1:  hlt
    jmp 1b
    .org 0xfff0
    jmp entry
    .org 0x10000
#endif
    .section .note.GNU-stack, "", @progbits
