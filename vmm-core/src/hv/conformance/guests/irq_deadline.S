// Sets a TSC deadline 1,000,000 cycles away and waits in HLT for it, TARGET times. Ends with 1 if the
// interrupt came too early, with 2 if the deadline is still armed behind it.

#include "guest.h"
#include "irq_apic.h"

        .set    TSC_DEADLINE, 0x6e0

        start
        apic_on
        movl    $0x40050, LAPIC_LVT_TIMER(%rbp)
        mfence                          // an MSR write may overtake the store that chose the mode
        movl    TARGET, %edi
        movl    $0, TARGET
again:
        rdtsc
        shlq    $32, %rdx
        leaq    1000000(%rax,%rdx), %rsi
        movq    %rsi, %rdx
        shrq    $32, %rdx
        movl    %esi, %eax
        movl    $TSC_DEADLINE, %ecx
        wrmsr
        incl    TARGET
        wait_until_target

        rdtsc
        shlq    $32, %rdx
        orq     %rdx, %rax
        cmpq    %rsi, %rax
        setb    %al
        expect  1, cmpb $0, %al
        movl    $TSC_DEADLINE, %ecx
        rdmsr
        orl     %edx, %eax
        expect  2, cmpl $0, %eax
        decl    %edi
        jnz     again
        power_off

counted:
        movl    $0, LAPIC_EOI(%rbp)
        incl    COUNT
        iretq

        idt_begin
        gate    0x50, counted
        idt_end
