// Counts interrupts of the local APIC's timer, whose LVT entry is FIRST, until they are TARGET; then leaves in
// SECOND what the timer still has to count.

#include "guest.h"
#include "irq_apic.h"

        start
        apic_on
        movl    $0xb, LAPIC_TIMER_DIVIDE(%rbp)  // by 1
        movl    FIRST, %eax
        movl    %eax, LAPIC_LVT_TIMER(%rbp)
        movl    $1000000, LAPIC_TIMER_INITIAL(%rbp)
        wait_until_target
        movl    LAPIC_TIMER_CURRENT(%rbp), %eax
        movl    %eax, SECOND
        power_off

counted:
        movl    $0, LAPIC_EOI(%rbp)
        incl    COUNT
        iretq

        idt_begin
        gate    0x50, counted
        idt_end
