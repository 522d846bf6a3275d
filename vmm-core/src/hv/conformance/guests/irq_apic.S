// Counts interrupts of vector 0x40, from the I/O APIC's pin FIRST or from messages, until they are TARGET.

#include "guest.h"
#include "irq_apic.h"

        start
        apic_on
        movl    FIRST, %edi
        movl    $0x40, %esi             // fixed delivery, edge, not masked
        ioapic_direct
        wait_until_target
        power_off

counted:
        movl    $0, LAPIC_EOI(%rbp)
        incl    COUNT
        iretq

        idt_begin
        gate    0x40, counted
        idt_end
