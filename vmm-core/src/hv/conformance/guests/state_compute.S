// Computes in ring 3 until STOP is not 0: a xorshift sequence (moves.rs has the same in Rust) that takes
// in a table in memory as it changes it, and now and then what a device outside RAM reads as. At the end
// the device is told. If FIRST is not 0, the timer of the local APIC interrupts periodically meanwhile, that
// many of its cycles apart.

#include "guest.h"
#include "irq_apic.h"
#include "state_user.h"

        .set    STOP, SECOND
        .set    TABLE, 0x10000          // 512 words of 64 bits
        .set    RESULT, 0x8100          // the last number, and how many there were
        .set    DEVICE, 0xd0000000      // 8 bytes to read, and 8 to write
        .set    BETWEEN_READS, 4096

        start
        cmpl    $0, FIRST
        je      compute
        apic_on
        movl    $0xb, LAPIC_TIMER_DIVIDE(%rbp)  // by 1
        movl    $0x20050, LAPIC_LVT_TIMER(%rbp) // periodic
        movl    FIRST, %eax
        movl    %eax, LAPIC_TIMER_INITIAL(%rbp)
compute:
        to_ring_3 0x202
        movl    $DEVICE, %esi
        movabsq $0x9e3779b97f4a7c15, %rax
        xorl    %ecx, %ecx
next:
        movq    %rax, %rdx
        shlq    $13, %rdx
        xorq    %rdx, %rax
        movq    %rax, %rdx
        shrq    $7, %rdx
        xorq    %rdx, %rax
        movq    %rax, %rdx
        shlq    $17, %rdx
        xorq    %rdx, %rax
        movl    %ecx, %ebx
        andl    $511, %ebx
        addq    TABLE(,%rbx,8), %rax
        movq    %rax, TABLE(,%rbx,8)
        incq    %rcx
        testl   $BETWEEN_READS - 1, %ecx
        jnz     next
        movq    (%rsi), %rdx
        addq    %rdx, %rax
        cmpl    $0, STOP
        je      next
        movq    %rax, RESULT
        movq    %rcx, RESULT + 8
        movq    %rax, 8(%rsi)
        jmp     .

tick:
        incl    COUNT
        movl    $0, LAPIC_EOI(%rbp)     // ring 3 leaves %rbp as it is
        iretq

        idt_begin
        gate    0x50, tick
        idt_end
