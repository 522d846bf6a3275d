// From real mode through flat 32-bit and 64-bit mode to ring 3, and back to ring 0 by an exception;
// says each stage with its number on port 0x80, and what ring 3 found on port 0x84.

#include "guest.h"

        .set    STAGE_PORT, 0x80
        .set    RESULT_PORT, 0x84

        .set    CODE32, 0x08
        .set    CODE64, 0x10
        .set    DATA, 0x18
        .set    USER_DATA, 0x23
        .set    USER_CODE, 0x2b
        .set    TASK, 0x30

        .set    PAGE_TABLES, 0x10000
        .set    IDT, 0x14000
        .set    TSS, 0x15000
        .set    STACK, 0x8000
        .set    USER_STACK, 0x9000
        .set    HIGH, 0x1ff000

.macro stage number
        movb    $\number, %al
        outb    %al, $STAGE_PORT
.endm

        .code16
        start
        stage   1
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orl     $1, %eax                // PE
        movl    %eax, %cr0
        ljmpl   $CODE32, $protected

        .code32
protected:
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $STACK, %esp
        movl    $0x600d0032, HIGH       // beyond what real mode reaches
        stage   2

        // One 2 MiB page, one to one, for all rings.
        movl    $PAGE_TABLES + 0x1007, PAGE_TABLES
        movl    $PAGE_TABLES + 0x2007, PAGE_TABLES + 0x1000
        movl    $0x87, PAGE_TABLES + 0x2000
        movl    %cr4, %eax
        orl     $0x20, %eax             // PAE
        movl    %eax, %cr4
        movl    $PAGE_TABLES, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       // EFER
        rdmsr
        orl     $0x100, %eax            // LME
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax       // PG
        movl    %eax, %cr0
        ljmpl   $CODE64, $long

        .code64
long:
        movl    $DATA, %eax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movabsq $0x123456789abcdef0, %r15
        stage   3

        // Vector 6, an invalid opcode, goes to `handler` on the stack of the TSS.
        movl    $(CODE64 << 16), %eax
        orl     $handler, %eax
        movl    %eax, IDT + 6 * 16
        movl    $0x8e00, IDT + 6 * 16 + 4
        lidt    idt_pointer
        movl    $STACK, TSS + 4
        movl    $TASK, %eax
        ltr     %ax

        pushq   $USER_DATA
        pushq   $USER_STACK
        pushq   $2
        pushq   $USER_CODE
        pushq   $user
        iretq

user:
        // 1000 + 999 + ... + 1, through the stack.
        xorl    %eax, %eax
        movl    $1000, %ecx
1:      addl    %ecx, %eax
        decl    %ecx
        jnz     1b
        pushq   %rax
        popq    %rbx
        movl    %cs, %ebp
undefined:
        ud2

handler:
        expect  1, cmpq $undefined, (%rsp)
        expect  2, cmpq $USER_CODE, 8(%rsp)
        expect  3, cmpq $USER_STACK, 24(%rsp)
        expect  4, cmpq $USER_DATA, 32(%rsp)
        // Where ring 3 runs without VT-x or AMD-V, the rest of the selector is the host's.
        andl    $3, %ebp
        expect  5, cmpl $3, %ebp
        expect  6, cmpl $0x600d0032, HIGH
        movq    %r15, %rax
        shrq    $32, %rax
        expect  7, cmpl $0x12345678, %eax
        stage   4
        movl    %ebx, %eax
        outl    %eax, $RESULT_PORT
        power_off

        .balign 8
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      // CODE32
        .quad   0x00af9b000000ffff      // CODE64
        .quad   0x00cf93000000ffff      // DATA
        .quad   0x00cff3000000ffff      // USER_DATA
        .quad   0x00affb000000ffff      // USER_CODE
        .quad   0x0000890150000067      // TASK: an available TSS at 0x15000
        .quad   0
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt
idt_pointer:
        .word   7 * 16 - 1
        .quad   IDT
