// SYSRET to ring 3, from there SYSCALL, back again, and INT 0x80 through a gate for ring 3.

#include "guest.h"

        .set    STAGE_PORT, 0x80
        .set    CODE64, 0x08
        .set    USER_DATA, 0x1b
        .set    USER_CODE, 0x23
        .set    FLAGS, 0x202
        .set    IDT, 0x14000
        .set    TSS, 0x90800            // where guest.rs has put it
        .set    STACK, 0x8000
        .set    USER_STACK, 0x9000

.macro stage number
        movb    $\number, %al
        outb    %al, $STAGE_PORT
.endm

.macro write_msr number, high, low
        movl    $\number, %ecx
        movl    $\low, %eax
        movl    $\high, %edx
        wrmsr
.endm

        .code64
        start
        write_msr 0xc0000080, 0, 0xd01                  // EFER: NXE, LMA, LME, SCE
        write_msr 0xc0000081, (0x13 << 16 | CODE64), 0  // STAR
        write_msr 0xc0000082, 0, system_call            // LSTAR
        write_msr 0xc0000084, 0, 0x200                  // SFMASK: interrupts off
        movl    $(CODE64 << 16), %eax
        orl     $interrupt, %eax
        movl    %eax, IDT + 0x80 * 16
        movl    $0xee00, IDT + 0x80 * 16 + 4            // a gate for ring 3
        lidt    idt_pointer
        movl    $STACK, TSS + 4

        movl    $USER_STACK, %esp
        movl    $user, %ecx
        movl    $FLAGS, %r11d
        sysretq

user:
        movl    %cs, %ebp
        syscall
returned:
        int     $0x80
after_int:

system_call:
        movl    %cs, %ebx
        expect  1, cmpl $CODE64, %ebx
        expect  2, cmpl $USER_CODE, %ebp
        expect  3, cmpq $returned, %rcx
        expect  4, cmpq $FLAGS, %r11
        expect  5, cmpq $USER_STACK, %rsp
        pushfq
        popq    %rax
        expect  6, testl $0x200, %eax
        stage   1
        sysretq

interrupt:
        expect  7, cmpq $after_int, (%rsp)
        expect  8, cmpq $USER_CODE, 8(%rsp)
        expect  9, cmpq $FLAGS, 16(%rsp)
        expect  10, cmpq $USER_STACK, 24(%rsp)
        expect  11, cmpq $USER_DATA, 32(%rsp)
        expect  12, cmpq $(STACK - 40), %rsp
        stage   2
        power_off

idt_pointer:
        .word   0x81 * 16 - 1
        .quad   IDT
