// vCPU 0 starts vCPU 1; then an interrupt goes from 0 to 1 and one back, FIRST times. Each waits in
// HLT meanwhile. SECOND counts the interrupts of vCPU 1.

#include "guest.h"
#include "irq_apic.h"
#include "smp_boot.h"

        .set    FIXED, 0x4000
        .set    PING, 0x60
        .set    PONG, 0x61
        .set    STACK, 0x7000

        start
        apic_on
        movl    $1, %edi
        start_up
1:      cmpl    $0, READY               // until vCPU 1 can be interrupted
        je      1b

        shll    $24, %edi
next:   incl    TARGET
        movl    %edi, LAPIC_ICR_HIGH(%rbp)
        movl    $FIXED + PING, LAPIC_ICR(%rbp)
        wait_until_target
        cmpl    FIRST, %eax
        jne     next
        power_off

        started
        movl    $STACK, %esp
        apic_on
        movl    $1, READY
stay:   sti
        hlt
        jmp     stay

ping:
        movl    $0, LAPIC_EOI(%rbp)
        incl    SECOND
        movl    $0, LAPIC_ICR_HIGH(%rbp)
        movl    $FIXED + PONG, LAPIC_ICR(%rbp)
        iretq

pong:
        movl    $0, LAPIC_EOI(%rbp)
        incl    COUNT
        iretq

        idt_begin
        gate    PING, ping
        gate    PONG, pong
        idt_end
